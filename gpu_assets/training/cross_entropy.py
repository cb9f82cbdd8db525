"""Cross-entropy through a large head, chunk by chunk. Torch code: import inside the function that needs it.

Shapes: S supervised positions, D hidden size, V vocabulary, C positions of one chunk.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

MAX_LOGITS = 2**27
"""Elements of one chunk's logits, 512 MiB of fp32: 883 positions at a vocabulary of 151,936."""


def summed_cross_entropy(
    hidden_SD: torch.Tensor, head: nn.Linear, targets_S: torch.Tensor, max_logits: int = MAX_LOGITS
) -> torch.Tensor:
    """The summed cross-entropy in nats of the head's softmax, which is taken in fp32.

    Logits of more than `max_logits` elements are never held at once. They then cost no second forward pass: each
    chunk's gradients are taken as soon as its loss is, and the logits forgotten.
    """
    positions, vocabulary = len(targets_S), head.weight.shape[0]
    if positions * vocabulary <= max_logits:
        return functional.cross_entropy(head(hidden_SD).float(), targets_S, reduction="sum")
    chunk = max(1, max_logits // vocabulary)
    total: torch.Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_SD, head.weight, head.bias, targets_S, chunk
    )
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and all gradients in one pass over chunks of positions."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_S: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:
        device = hidden_SD.device.type
        computed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_SD.dtype
        with torch.autocast(device, enabled=False):
            return _forward(ctx, hidden_SD, weight_VD, bias_V, targets_S, chunk, computed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = ctx.saved_tensors
        for saved in gradients:
            if saved is not None:
                saved.mul_(gradient)
        return *gradients, None, None


def _forward(
    ctx: Any,
    hidden_SD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_S: torch.Tensor,
    chunk: int,
    computed: torch.dtype,
) -> torch.Tensor:
    """The head's gradients are summed over the chunks in fp32, and rounded once where it has fewer bits."""
    total = torch.zeros((), dtype=torch.float32, device=hidden_SD.device)
    head_VD, head_bias_V = weight_VD.to(computed), None if bias_V is None else bias_V.to(computed)
    hidden_gradient_SD = torch.empty_like(hidden_SD)
    weight_gradient_VD, bias_gradient_V = (
        torch.zeros_like(part, dtype=torch.float32) if part is not None and needed else None
        for part, needed in zip((weight_VD, bias_V), ctx.needs_input_grad[1:3], strict=True)
    )
    for start in range(0, len(targets_S), chunk):
        hidden_CD = hidden_SD[start : start + chunk].to(computed)
        logits_CV = functional.linear(hidden_CD, head_VD, head_bias_V)
        loss, gradient_CV = _loss_and_gradient(logits_CV, targets_S[start : start + chunk])
        del logits_CV
        total += loss
        if bias_gradient_V is not None:
            bias_gradient_V += gradient_CV.sum(0)
        gradient_CV = gradient_CV.to(computed)
        hidden_gradient_SD[start : start + chunk] = gradient_CV @ head_VD
        if weight_gradient_VD is None:
            continue
        if computed == torch.float32:
            weight_gradient_VD.addmm_(gradient_CV.T, hidden_CD)
        else:
            weight_gradient_VD += gradient_CV.T @ hidden_CD
        del gradient_CV
    ctx.save_for_backward(hidden_gradient_SD, *_rounded((weight_gradient_VD, bias_gradient_V), weight_VD.dtype))
    return total


def _rounded(gradients: tuple[torch.Tensor | None, ...], dtype: torch.dtype) -> list[torch.Tensor | None]:
    return [None if gradient is None else gradient.to(dtype) for gradient in gradients]


def _loss_and_gradient(logits_CV: torch.Tensor, targets_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The chunk's summed loss, and its gradient by the logits in fp32."""
    values_CV = logits_CV.float()
    targets_C1 = targets_C.unsqueeze(1)
    normalizer_C1 = values_CV.logsumexp(-1, keepdim=True)
    loss = (normalizer_C1 - values_CV.gather(1, targets_C1)).sum()
    values_CV.sub_(normalizer_C1).exp_()
    values_CV.scatter_add_(1, targets_C1, torch.full_like(normalizer_C1, -1.0))
    return loss, values_CV
