"""What a request's own parameters do to its logits: repetition, presence and frequency penalties, and its biases.

Both of a row's tensors are kept on the device and change by the new token alone, so a long answer costs no more
than a short one. Imports torch: loaded lazily, by the engine only. V is the size of the vocabulary, R the number of
rows that have penalties.
"""

from collections import Counter
from collections.abc import Sequence

import torch

from serving.inference.engine import Sampling


class RowPenalties:
    """One request's: `added` (V) is added to its logits, `said` (V) marks what the repetition penalty is for."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int], vocabulary: int, device: torch.device) -> None:
        self._sampling = sampling
        self._counts: Counter[int] = Counter()
        self.repetition = sampling.repetition_penalty
        self.said: torch.Tensor | None = None
        self.added: torch.Tensor | None = None
        if sampling.repetition_penalty != 1:
            self.said = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            self.said[torch.tensor(sorted(set(prompt_ids)), dtype=torch.long, device=device)] = True
        if sampling.logit_bias or self._counts_tokens:
            self.added = torch.zeros(vocabulary, device=device)
        if self.added is not None and sampling.logit_bias:
            tokens = torch.tensor(list(sampling.logit_bias), dtype=torch.long, device=device)
            self.added[tokens] = torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32, device=device)

    @staticmethod
    def needed(sampling: Sampling) -> bool:
        return bool(
            sampling.logit_bias
            or sampling.presence_penalty
            or sampling.frequency_penalty
            or sampling.repetition_penalty != 1
        )

    def take(self, new_ids: Sequence[int]) -> None:
        """Count tokens of the answer that are new since the last call."""
        self._counts.update(new_ids)
        for token in set(new_ids):
            if self.said is not None:
                self.said[token] = True
            if self.added is not None and self._counts_tokens:
                self.added[token] = self._addition(token)

    @property
    def _counts_tokens(self) -> bool:
        return bool(self._sampling.presence_penalty or self._sampling.frequency_penalty)

    def _addition(self, token: int) -> float:
        """OpenAI's formula, for a token that the answer has."""
        penalty = self._sampling.presence_penalty + self._counts[token] * self._sampling.frequency_penalty
        return self._sampling.logit_bias.get(token, 0.0) - penalty


def penalise(scores: torch.Tensor, rows: Sequence[tuple[int, RowPenalties]]) -> torch.Tensor:
    """Scores of shape (rows, V) with each request's penalties in its row; the scores that came in are untouched.

    The repetition penalty divides a positive logit and multiplies a negative one, as CTRL's authors do.
    """
    repeated = [(row, of) for row, of in rows if of.said is not None]
    if repeated:
        at = _indices(scores, [row for row, _ in repeated])
        said = torch.stack([of.said for _, of in repeated if of.said is not None])
        factors = torch.tensor([of.repetition for _, of in repeated], device=scores.device).unsqueeze(1)
        own = scores[at]
        scores = scores.index_copy(0, at, torch.where(said, torch.where(own < 0, own * factors, own / factors), own))
    added = [(row, of.added) for row, of in rows if of.added is not None]
    if added:
        scores = scores.index_add(0, _indices(scores, [row for row, _ in added]), torch.stack([of for _, of in added]))
    return scores


def _indices(scores: torch.Tensor, rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.long, device=scores.device)
