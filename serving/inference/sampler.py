"""How a token is drawn from each row's logits: Gumbel noise before argmax, and none for greedy rows.

argmax(logits / temperature + Gumbel noise) draws exactly from the softmax, so one argmax serves
greedy and sampled requests alike, and a request with a seed gets noise of its own. Imports torch:
loaded lazily, by the engine only. V is the size of the vocabulary, S the number of
sampled requests in a batch.
"""

import hashlib
import math
import struct
from collections.abc import Sequence

import torch

from serving.inference.engine import Sampling

COLDEST = 1e-5
"""Temperatures are taken as at least this: logits over less leave the range of float32."""


class Sampler:
    """Draws; its unseeded noise differs from one sampler to the next."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seeded = torch.Generator(device)
        self._unseeded = torch.Generator(device)
        self._unseeded.seed()

    def draw(self, scores: torch.Tensor, rows: Sequence[tuple[int, Sampling, int]]) -> torch.Tensor:
        """Scores of shape (rows, V) whose argmax is a draw in these rows; the scores that came in are untouched.

        Args:
            rows: index, sampling and position in the context of each sampled row. A seed's noise follows from the
                position, so a request that is started anew goes on with what it would have had.
        """
        if not rows:
            return scores
        at = torch.tensor([row for row, _, _ in rows], device=scores.device)
        noise = self._noise(rows, scores.shape[-1])
        return scores.index_copy(0, at, filter_logits(scores[at], [sampling for _, sampling, _ in rows]) + noise)

    def _noise(self, rows: Sequence[tuple[int, Sampling, int]], vocabulary: int) -> torch.Tensor:
        """Gumbel noise of shape (S, V)."""
        noise = torch.empty(len(rows), vocabulary, device=self._device)
        if any(sampling.seed is None for _, sampling, _ in rows):
            noise.exponential_(generator=self._unseeded)
        for index, (_, sampling, position) in enumerate(rows):
            if sampling.seed is not None:
                self._seeded.manual_seed(_seed_at(sampling.seed, position))
                noise[index].exponential_(generator=self._seeded)
        return -noise.log()


def _seed_at(seed: int, position: int) -> int:
    """A generator's seed, by a hash: torch's for the CPU looks at the low 32 bits only, and neighbours must differ."""
    digest = hashlib.blake2b(struct.pack("<qq", seed, position), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def filter_logits(scores: torch.Tensor, samplings: list[Sampling]) -> torch.Tensor:
    """Logits of shape (S, V) after temperature, top-k, top-p and min-p; what is filtered out is -inf."""
    scores = scores / _column(scores, [max(sampling.temperature, COLDEST) for sampling in samplings])
    if any(sampling.top_k > 0 or sampling.top_p < 1 for sampling in samplings):
        scores = _keep_likeliest(scores, samplings)
    if any(sampling.min_p > 0 for sampling in samplings):
        shares = [math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf for sampling in samplings]
        least = scores.amax(dim=-1, keepdim=True) + _column(scores, shares)
        scores = scores.masked_fill(scores < least, -math.inf)
    return scores


def _keep_likeliest(scores: torch.Tensor, samplings: list[Sampling]) -> torch.Tensor:
    """Top-k, then top-p of what is left."""
    vocabulary = scores.shape[-1]
    top_k = _column(scores, [s.top_k if s.top_k > 0 else vocabulary for s in samplings])
    top_p = _column(scores, [s.top_p if s.top_p < 1 else math.inf for s in samplings])
    ordered, order = scores.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(torch.arange(vocabulary, device=scores.device) >= top_k, -math.inf)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    ordered = ordered.masked_fill((before >= top_p) & (before > 0), -math.inf)
    return torch.empty_like(scores).scatter(1, order, ordered)


def _column(scores: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, device=scores.device).unsqueeze(1)
