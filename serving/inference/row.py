"""One request inside the engine: what is done to its logits, and what comes of it beside tokens.

A row knows its own prompt and answer and no other request. transformers copies a request's arguments when it starts
one anew, with the answer so far put behind its prompt: a row is never copied, and goes on as it was. Imports torch:
loaded lazily, by the engine only.
"""

from collections.abc import Sequence

import torch

from gpu_assets.rendering import Bias, LogitsProcessor
from serving.inference.engine import Generation, TokenLogprobs
from serving.inference.grammar import AllowedTokens
from serving.inference.penalties import RowPenalties
from serving.inference.row_biases import RowSteering


class Row:
    """Filled in the engine's thread. `first_token_at` is on `time.perf_counter`'s clock.

    `biases`, `penalties` and `allowed` are what the next token's logits are changed by; `logprobs` grows by one entry
    with each token, before the token is given out.
    """

    def __init__(
        self, generation: Generation, steering: Sequence[LogitsProcessor], grammar: AllowedTokens | None
    ) -> None:
        self.sampling = generation.sampling
        self.top_logprobs = generation.top_logprobs
        self.logprobs: list[TokenLogprobs] = []
        self.first_token_at: float | None = None
        self.biases: list[Bias] = []
        self.penalties: RowPenalties | None = None
        self.allowed: torch.Tensor | None = None
        self._prompt_ids = generation.prompt_ids
        self._steering = RowSteering(steering, generation.prompt_ids) if steering else None
        self._grammar = grammar
        self._taken = 0
        self.plain = (
            self.sampling.greedy
            and self._steering is None
            and grammar is None
            and self.top_logprobs is None
            and not RowPenalties.needed(self.sampling)
        )

    def __deepcopy__(self, _: object) -> "Row":
        return self

    def advance(self, ids: Sequence[int], vocabulary: int, device: torch.device) -> None:
        """Prepare for the token that follows these, prompt and answer so far."""
        new_ids = ids[len(self._prompt_ids) + self._taken :]
        self._taken += len(new_ids)
        if self._steering is not None:
            self.biases = self._steering.biases(ids)
        if self.penalties is None and RowPenalties.needed(self.sampling):
            self.penalties = RowPenalties(self.sampling, self._prompt_ids, vocabulary, device)
        if self.penalties is not None:
            self.penalties.take(new_ids)
        if self._grammar is not None:
            self.allowed = torch.from_numpy(self._grammar.after(new_ids)).to(device)
