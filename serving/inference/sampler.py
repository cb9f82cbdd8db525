"""Per-request sampling inside one batch: Gumbel noise before argmax, and none for greedy requests.

argmax(logits / temperature + Gumbel noise) draws exactly from the softmax, so one argmax serves
greedy and sampled requests alike, and a request with a seed gets noise of its own. Imports torch and
transformers: loaded lazily, by the engine only. V is the size of the vocabulary, S the number of
sampled requests in a batch.
"""

import math

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
from transformers.generation.continuous_batching.requests import FutureRequestState

from serving.inference.engine import Sampling

SAMPLING = "sampling"
_POSITIONS = 2**20
"""Seeds are spread so that noise of one seed's later positions is not that of the next seed's first."""


class RequestSampler(ContinuousBatchingLogitsProcessor):
    """Adds to each sampled request's logits the noise that makes argmax a draw."""

    supported_kwargs: dict[str, type] = {SAMPLING: Sampling}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._sampled: list[tuple[int, Sampling, int]] = []
        self._generator = torch.Generator()

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> torch.Tensor:
        """Remember which rows of the coming batch are sampled, how, and at which position."""
        states = [request.state for request in requests_with_new_token]
        self._sampled = [
            (row, sampling, state.position_offset)
            for row, state in enumerate(states)
            if not (sampling := state.logit_processor_kwargs.get(SAMPLING, Sampling())).greedy
        ]
        return torch.zeros(len(states), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        if not self._sampled:
            return scores
        rows = torch.tensor([row for row, _, _ in self._sampled], device=scores.device)
        samplings = [sampling for _, sampling, _ in self._sampled]
        drawn = filter_logits(scores[rows], samplings) + self._noise(scores.shape[-1]).to(scores.device)
        return scores.index_copy(0, rows, drawn)

    def _noise(self, vocabulary: int) -> torch.Tensor:
        """Gumbel noise of shape (S, V)."""
        noise = torch.empty(len(self._sampled), vocabulary).exponential_()
        for row, (_, sampling, position) in enumerate(self._sampled):
            if sampling.seed is not None:
                self._generator.manual_seed((sampling.seed * _POSITIONS + position) % 2**63)
                noise[row].exponential_(generator=self._generator)
        return -noise.log()


def filter_logits(scores: torch.Tensor, samplings: list[Sampling]) -> torch.Tensor:
    """Logits of shape (S, V) after temperature, top-k and top-p; what is filtered out is -inf."""
    device = scores.device
    temperatures = torch.tensor([sampling.temperature for sampling in samplings], device=device)
    scores = scores / temperatures.unsqueeze(1)
    if all(sampling.top_k <= 0 and sampling.top_p == 1 for sampling in samplings):
        return scores
    vocabulary = scores.shape[-1]
    top_k = torch.tensor([s.top_k if s.top_k > 0 else vocabulary for s in samplings], device=device).unsqueeze(1)
    top_p = torch.tensor([s.top_p if s.top_p < 1 else math.inf for s in samplings], device=device).unsqueeze(1)
    ordered, order = scores.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(torch.arange(vocabulary, device=device) >= top_k, -math.inf)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    ordered = ordered.masked_fill(before >= top_p, -math.inf)
    return torch.empty_like(scores).scatter(1, order, ordered)
