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
    if positions * vocabulary <= max_logits or head.bias is not None:
        return functional.cross_entropy(head(hidden_SD).float(), targets_S, reduction="sum")
    chunk = max(1, max_logits // vocabulary)
    total: torch.Tensor = _ChunkedCrossEntropy.apply(hidden_SD, head.weight, targets_S, chunk)
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and both gradients in one pass over chunks of positions."""

    @staticmethod
    def forward(
        ctx: Any, hidden_SD: torch.Tensor, weight_VD: torch.Tensor, targets_S: torch.Tensor, chunk: int
    ) -> torch.Tensor:
        device = hidden_SD.device.type
        computed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_SD.dtype
        with torch.autocast(device, enabled=False):
            return _forward(ctx, hidden_SD, weight_VD, targets_S, chunk, computed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient_SD, weight_gradient_VD = ctx.saved_tensors
        for saved in (hidden_gradient_SD, weight_gradient_VD):
            if saved is not None:
                saved.mul_(gradient)
        return hidden_gradient_SD, weight_gradient_VD, None, None


def _forward(
    ctx: Any,
    hidden_SD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_S: torch.Tensor,
    chunk: int,
    computed: torch.dtype,
) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float32, device=hidden_SD.device)
    head_VD = weight_VD.to(computed)
    hidden_gradient_SD = torch.empty_like(hidden_SD)
    weight_gradient_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
    for start in range(0, len(targets_S), chunk):
        hidden_CD = hidden_SD[start : start + chunk].to(computed)
        loss, gradient_CV = _loss_and_gradient(hidden_CD @ head_VD.T, targets_S[start : start + chunk])
        total += loss
        gradient_CV = gradient_CV.to(computed)
        hidden_gradient_SD[start : start + chunk] = gradient_CV @ head_VD
        if weight_gradient_VD is None:
            continue
        if weight_gradient_VD.dtype == computed:
            weight_gradient_VD.addmm_(gradient_CV.T, hidden_CD)
        else:
            weight_gradient_VD += gradient_CV.T @ hidden_CD
    ctx.save_for_backward(hidden_gradient_SD, weight_gradient_VD)
    return total


def _loss_and_gradient(logits_CV: torch.Tensor, targets_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The chunk's summed loss, and its gradient by the logits in fp32."""
    values_CV = logits_CV.float()
    targets_C1 = targets_C.unsqueeze(1)
    normalizer_C1 = values_CV.logsumexp(-1, keepdim=True)
    loss = (normalizer_C1 - values_CV.gather(1, targets_C1)).sum()
    values_CV.sub_(normalizer_C1).exp_()
    values_CV.scatter_add_(1, targets_C1, torch.full_like(normalizer_C1, -1.0))
    return loss, values_CV
