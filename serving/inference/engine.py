"""What an engine promises: token ids in, token ids out, for one version of a model.

Knows nothing of text, templates, HTTP or which version is the champion. A swap is not the engine's: the pool starts
another engine beside it.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gpu_assets.errors import PlatformError


class EngineStopped(PlatformError):
    """The engine died or was stopped; nothing can be generated with it."""


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn; the defaults are greedy.

    `logit_bias` is added to the logits of token ids. The presence and frequency penalties look at the answer so far,
    the repetition penalty at prompt and answer.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True)
class JsonGrammar:
    """The answer is JSON: any object, or what a JSON schema allows."""

    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Generation:
    """One request; `incremental` asks for tokens as they come instead of all at the end.

    `top_logprobs` asks for the log-probability of each token, and of that many of the likeliest beside it; None asks
    for none.
    """

    prompt_ids: list[int]
    max_tokens: int
    sampling: Sampling = Sampling()
    incremental: bool = False
    top_logprobs: int | None = None
    grammar: JsonGrammar | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its natural log-probability under the model itself: before biases, penalties and temperature."""

    id: int
    logprob: float


@dataclass(frozen=True)
class TokenLogprobs:
    """The token that was chosen, and the likeliest at its place, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Tokens:
    """Tokens that are new since the last; `first_token_s` counts from submission.

    `ended` is None until the last, which says whether the model ended its answer itself. `logprobs` has one entry for
    each id where they were asked for.
    """

    ids: list[int]
    ended: bool | None
    first_token_s: float
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class EngineStats:
    """Requests inside the engine, and the share of its key-value cache that they use, 0 to 1."""

    running: int
    waiting: int
    cache_use: float = 0.0


class Engine(Protocol):
    """Generates with one version of a model; `start` to `stop`, once."""

    @property
    def max_context_tokens(self) -> int:
        """Prompt and answer of one request."""

    @property
    def memory_bytes(self) -> int | None:
        """What the weights and the cache take on the device; None where that cannot be known."""

    @property
    def alive(self) -> bool:
        """Whether requests make progress."""

    def start(self) -> None:
        """Begin to serve. Returns at once."""

    def generate(self, generation: Generation) -> AsyncGenerator[Tokens, None]:
        """Tokens of one request; closing the iterator cancels it.

        Raises:
            EngineStopped: if the engine is dead, or dies before the answer is complete.
        """

    def stats(self) -> EngineStats:
        """Never blocks."""

    def stop(self) -> None:
        """End the engine and fail what it has not finished. Blocks until its memory can be freed."""
