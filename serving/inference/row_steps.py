"""What happens to a batch's logits between the model and the choice of tokens, row by row.

In this order: the model's own log-probabilities are kept; the profile's biases are added; the repetition penalty;
presence and frequency penalties and `logit_bias`; what the grammar forbids goes; temperature, top-k, top-p and
min-p; the noise that makes argmax a draw. The engine's argmax follows. A step that nobody in the batch asks for costs
nothing, and rows know nothing of each other. Imports torch and transformers: loaded lazily, by the engine only.
"""

import time
from collections.abc import Callable, Sequence

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
from transformers.generation.continuous_batching.requests import FutureRequestState

from serving.inference.engine import Sampling, TokenLogprob, TokenLogprobs
from serving.inference.penalties import penalise
from serving.inference.row import Row
from serving.inference.row_biases import apply_biases
from serving.inference.sampler import Sampler

ROW = "row"
_NO_ARGUMENTS = torch.empty(0, dtype=torch.int32)
"""Rows hold theirs themselves."""


class RowSteps(ContinuousBatchingLogitsProcessor):
    """Does to each row what its request asks for.

    Args:
        fail: told of a request whose own part raised, by id, in the engine's thread; the others go on.
    """

    supported_kwargs: dict[str, type] = {ROW: Row}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, vocabulary: int, device: torch.device, fail: Callable[[str, Exception], None]) -> None:
        self._vocabulary = vocabulary
        self._device = device
        self._fail = fail
        self._sampler = Sampler(device)
        self._begun: list[Row] = []
        self._asking: list[tuple[int, Row]] = []
        self._sampled: list[tuple[int, Sampling, int]] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> torch.Tensor:
        """Prepare the rows of the coming batch, which is called once the last batch's tokens are known."""
        self._note_first_tokens()
        self._asking, self._sampled = [], []
        for index, request in enumerate(requests_with_new_token):
            row: Row = request.state.logit_processor_kwargs[ROW]
            if row.first_token_at is None:
                self._begun.append(row)
            if row.plain or not self._advance(row, request):
                continue
            self._asking.append((index, row))
            if not row.sampling.greedy:
                self._sampled.append((index, row.sampling, request.state.position_offset))
        return _NO_ARGUMENTS

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        if not self._asking:
            return scores
        raw, rows = scores, self._asking
        scores = apply_biases(scores, [(index, bias) for index, row in rows for bias in row.biases])
        scores = penalise(scores, [(index, row.penalties) for index, row in rows if row.penalties is not None])
        scores = _allow(scores, [(index, row.allowed) for index, row in rows if row.allowed is not None])
        scores = self._sampler.draw(scores, self._sampled)
        _keep_logprobs(raw, scores, [(index, row) for index, row in rows if row.top_logprobs is not None])
        return scores

    def _note_first_tokens(self) -> None:
        if self._begun:
            now = time.perf_counter()
            for row in self._begun:
                row.first_token_at = now
            self._begun = []

    def _advance(self, row: Row, request: FutureRequestState) -> bool:
        """Whether it could; a row that could not asks for nothing from then on, until its request is cancelled."""
        state = request.state
        try:
            row.advance(state.initial_tokens + state.generated_tokens, self._vocabulary, self._device)
        except Exception as error:
            row.plain = True
            self._fail(state.request_id, error)
            return False
        return True


def _allow(scores: torch.Tensor, rows: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """Scores with -inf for every token that a row's grammar forbids; the scores that came in are untouched."""
    if not rows:
        return scores
    at = torch.tensor([row for row, _ in rows], device=scores.device)
    allowed = torch.stack([of for _, of in rows])
    return scores.index_copy(0, at, scores[at].masked_fill(~allowed, -torch.inf))


def _keep_logprobs(raw: torch.Tensor, scores: torch.Tensor, rows: Sequence[tuple[int, Row]]) -> None:
    """Give each row the log-probabilities that the model's own logits mean, of the token that `scores` choose."""
    if not rows:
        return
    at = torch.tensor([index for index, _ in rows], device=raw.device)
    logprobs = raw[at].float().log_softmax(dim=-1)
    chosen = scores.argmax(dim=-1)[at].unsqueeze(1)
    most = min(max(row.top_logprobs or 0 for _, row in rows), logprobs.shape[-1])
    best, best_ids = logprobs.topk(most, dim=-1)
    of_chosen = logprobs.gather(1, chosen).squeeze(1).tolist()
    found = zip(rows, chosen.squeeze(1).tolist(), of_chosen, best_ids.tolist(), best.tolist(), strict=True)
    for (_, row), token, logprob, ids, values in found:
        top = tuple(TokenLogprob(*of) for of in zip(ids, values, strict=True))[: row.top_logprobs]
        row.logprobs.append(TokenLogprobs(TokenLogprob(token, logprob), top))
