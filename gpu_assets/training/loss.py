"""Cross-entropy on supervised positions only. Torch code: import inside the function that needs it.

Shapes: B rows of a micro-batch, T positions, D hidden size, S supervised positions, N documents.
"""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from gpu_assets.errors import ModelUnsupported
from gpu_assets.rendering import Sample
from gpu_assets.training.attention import document_arguments
from gpu_assets.training.batches import Layout
from gpu_assets.training.cross_entropy import summed_cross_entropy


class Tensors(NamedTuple):
    """One micro-batch; `places_S` are the positions that predict something, counted over all rows, `targets_S` what.

    Packed rows also have `positions_BT`, which restart a document, `bounds`, the N + 1 places between documents, and
    `longest`, the tokens of the longest of them. Padded rows have a document each and need neither.
    """

    ids_BT: torch.Tensor
    places_S: torch.Tensor
    targets_S: torch.Tensor
    positions_BT: torch.Tensor | None = None
    bounds: torch.Tensor | None = None
    longest: int = 0

    def to(self, device: torch.device) -> "Tensors":
        moved = (part.to(device, non_blocking=True) if isinstance(part, torch.Tensor) else part for part in self)
        return Tensors(*moved)  # type: ignore[arg-type]


class OwnPass(NamedTuple):
    """A model's own forward pass: the mean loss of all tokens but the first, and what went through its head."""

    loss: torch.Tensor
    decoded_BTD: torch.Tensor
    head_input_BTD: torch.Tensor
    head_output_BTV: torch.Tensor
    logits_BTV: torch.Tensor


class SupervisedLoss(nn.Module):
    """A causal model with its head applied to supervised positions only.

    So a full (B, T, V) logits tensor never exists. The decoder is called without an attention mask
    and without a cache: rows are padded on the right, where causal attention cannot see, and packed
    documents are told apart by their restarting positions, which transformers turns into a block
    mask only under these two conditions, or by `bounds` where the attention takes them (attention.py).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids_BT: torch.Tensor,
        places_S: torch.Tensor,
        targets_S: torch.Tensor,
        positions_BT: torch.Tensor | None = None,
        bounds: torch.Tensor | None = None,
        longest: int = 0,
    ) -> torch.Tensor:
        """Summed cross-entropy in nats; the caller divides by the step's supervised tokens."""
        hidden_BTD = self.hidden(ids_BT, positions_BT, bounds, longest)
        head = self.model.get_output_embeddings()
        return summed_cross_entropy(hidden_BTD.flatten(0, 1).index_select(0, places_S), head, targets_S)

    def hidden(
        self, ids_BT: torch.Tensor, positions_BT: torch.Tensor | None, bounds: torch.Tensor | None, longest: int
    ) -> torch.Tensor:
        """What the decoder hands to the head, at each position."""
        decoded: torch.Tensor = self.model.base_model(
            input_ids=ids_BT, position_ids=positions_BT, use_cache=False, **self._documents(bounds, longest)
        ).last_hidden_state
        return decoded

    def own_pass(self, row: Tensors) -> OwnPass:
        """What the model itself makes of one document, through all of its logits: for comparison, on a short one.

        Raises:
            ModelUnsupported: if the model has no decoder whose last hidden states go to a head.
        """
        seen: dict[str, torch.Tensor] = {}

        def note_decoder(_: nn.Module, __: Any, output: Any) -> None:
            if hasattr(output, "last_hidden_state"):
                seen["decoded"] = output.last_hidden_state

        def note_head(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen["input"], seen["output"] = inputs[0], output

        parts = ((self.model.base_model, note_decoder), (self.model.get_output_embeddings(), note_head))
        hooks = [part.register_forward_hook(note) for part, note in parts if part is not None]
        try:
            own = self.model(
                input_ids=row.ids_BT,
                labels=row.ids_BT,
                position_ids=row.positions_BT,
                use_cache=False,
                **self._documents(row.bounds, row.longest),
            )
        finally:
            for hook in hooks:
                hook.remove()
        if not {"decoded", "input", "output"} <= seen.keys():
            raise ModelUnsupported(
                f"{type(self.model).__name__} cannot be trained: its forward pass does not hand the last hidden states "
                "of one decoder, its base_model, to one head, and the loss is taken between the two. Nothing was "
                "trained; take a model of a class that does, such as Qwen3ForCausalLM or LlamaForCausalLM"
            )
        return OwnPass(own.loss, seen["decoded"], seen["input"], seen["output"], own.logits)

    def _documents(self, bounds: torch.Tensor | None, longest: int) -> dict[str, Any]:
        return {} if bounds is None else document_arguments(self.model.config, bounds, longest)


def collate(samples: Sequence[Sample], layout: Layout, pad_id: int) -> Tensors:
    """Lay samples out as rows of one tensor (padded) or end to end in one row (packed).

    The first token of a sample is never a target, so a packed document does not learn to follow
    the one before it.
    """
    lengths = [len(sample.ids) for sample in samples]
    longest = max(lengths)
    if layout == "packed":
        bounds = list(accumulate(lengths, initial=0))
        places, targets = _targets(samples, bounds)
        return Tensors(
            ids_BT=torch.tensor([list(chain.from_iterable(sample.ids for sample in samples))]),
            places_S=torch.tensor(places, dtype=torch.long),
            targets_S=torch.tensor(targets, dtype=torch.long),
            positions_BT=torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0),
            bounds=torch.tensor(bounds, dtype=torch.int32),
            longest=longest,
        )
    places, targets = _targets(samples, range(0, len(samples) * longest, longest))
    return Tensors(
        ids_BT=torch.tensor([[*sample.ids, *[pad_id] * (longest - len(sample.ids))] for sample in samples]),
        places_S=torch.tensor(places, dtype=torch.long),
        targets_S=torch.tensor(targets, dtype=torch.long),
    )


def _targets(samples: Sequence[Sample], starts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where something is predicted and what: each supervised token, at the place before its own."""
    places: list[int] = []
    targets: list[int] = []
    for sample, start in zip(samples, starts, strict=False):
        supervised = [index for index, is_supervised in enumerate(sample.supervised) if is_supervised and index]
        places.extend(start + index - 1 for index in supervised)
        targets.extend(sample.ids[index] for index in supervised)
    return places, targets
