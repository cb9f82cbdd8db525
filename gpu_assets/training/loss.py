"""Cross-entropy on supervised positions only. Torch code: import inside the function that needs it.

Shapes: B rows of a micro-batch, T positions, D hidden size, S supervised positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from gpu_assets.rendering import Sample
from gpu_assets.training.batches import Layout


@dataclass(frozen=True)
class Tensors:
    """One micro-batch: ids, positions that restart a document, and targets, -100 where nothing is learned."""

    ids_BT: torch.Tensor
    positions_BT: torch.Tensor
    targets_BT: torch.Tensor


class SupervisedLoss(nn.Module):
    """A causal model with its head applied to supervised positions only.

    So a full (B, T, V) logits tensor never exists. The decoder is called without an attention mask
    and without a cache: rows are padded on the right, where causal attention cannot see, and packed
    documents are told apart by their restarting positions, which transformers turns into a block
    mask only under these two conditions.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: torch.Tensor, positions_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy in nats; the caller divides by the step's supervised tokens."""
        decoder, head = self.model.base_model, self.model.get_output_embeddings()
        hidden_BTD = decoder(input_ids=ids_BT, position_ids=positions_BT, use_cache=False).last_hidden_state
        supervised_BT = targets_BT != -100
        logits_SV = head(hidden_BTD[supervised_BT])
        return functional.cross_entropy(logits_SV.float(), targets_BT[supervised_BT], reduction="sum")


def collate(samples: Sequence[Sample], layout: Layout, pad_id: int) -> Tensors:
    """Lay samples out as rows of one tensor (padded) or end to end in one row (packed).

    The first token of a sample is never a target, so a packed document does not learn to follow
    the one before it.
    """
    rows = [_shifted(sample) for sample in samples]
    if layout == "packed":
        merged = [list(chain.from_iterable(row[part] for row in rows)) for part in range(3)]
        return Tensors(*(torch.tensor([values], dtype=torch.long) for values in merged))
    length = max(len(ids) for ids, _, _ in rows)
    return Tensors(
        ids_BT=torch.tensor([ids + [pad_id] * (length - len(ids)) for ids, _, _ in rows], dtype=torch.long),
        positions_BT=torch.arange(length).expand(len(rows), length),
        targets_BT=torch.tensor([targets + [-100] * (length - len(targets)) for _, _, targets in rows]),
    )


def _shifted(sample: Sample) -> tuple[list[int], list[int], list[int]]:
    """Ids, positions and next-token targets; the last position predicts nothing."""
    ids = list(sample.ids)
    targets = [token if supervised else -100 for token, supervised in zip(ids[1:], sample.supervised[1:], strict=True)]
    return ids, list(range(len(ids))), [*targets, -100]
