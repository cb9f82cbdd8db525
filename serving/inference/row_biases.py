"""What a checkpoint's profile does to logits, row by row inside one batch.

A row's bias follows from its own prompt and answer, so rows of a batch know nothing of each other. Imports torch:
loaded lazily, by the engine only. V is the size of the vocabulary.
"""

from collections.abc import Sequence
from functools import cached_property

import torch

from gpu_assets.rendering import Bias, LogitsProcessor, RowProcessor


class RowSteering:
    """The profile's processors of one request; they read its prompt when first asked."""

    def __init__(self, processors: Sequence[LogitsProcessor], prompt_ids: list[int]) -> None:
        self._of_all_rows = processors
        self._prompt_ids = prompt_ids

    @cached_property
    def _processors(self) -> list[RowProcessor]:
        return [processor.of_row(self._prompt_ids) for processor in self._of_all_rows]

    def biases(self, ids: Sequence[int]) -> list[Bias]:
        """The next token's, after prompt and answer so far."""
        generated = ids[len(self._prompt_ids) :]
        return [processor.bias(generated) for processor in self._processors]


def apply_biases(scores: torch.Tensor, biases: Sequence[tuple[int, Bias]]) -> torch.Tensor:
    """Scores of shape (rows, V) with every bias added to its row; the scores that came in are untouched."""
    of_tokens = [(row, bias.tokens) for row, bias in biases if not bias.others]
    places = [(row, token, value) for row, tokens in of_tokens for token, value in tokens.items()]
    of_all = [(row, bias) for row, bias in biases if bias.others]
    if not places and not of_all:
        return scores
    scores = scores.clone()
    if places:
        rows, tokens, values = zip(*places, strict=True)
        at = (_on(scores, rows, torch.long), _on(scores, tokens, torch.long))
        scores.index_put_(at, _on(scores, values, scores.dtype), accumulate=True)
    for row, bias in of_all:
        own_tokens = _on(scores, list(bias.tokens), torch.long)
        own = scores[row, own_tokens] + _on(scores, list(bias.tokens.values()), scores.dtype)
        scores[row] += bias.others
        scores[row, own_tokens] = own
    return scores


def _on(scores: torch.Tensor, values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=scores.device)
