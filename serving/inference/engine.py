"""What an engine promises: token ids in, token ids out, for one version of a model.

Knows nothing of text, templates, HTTP or which version is the champion.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from gpu_assets.errors import PlatformError


class EngineStopped(PlatformError):
    """The engine died or was stopped; nothing can be generated with it."""


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn; the defaults are greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True)
class Generation:
    """One request; `incremental` asks for tokens as they come instead of all at the end."""

    prompt_ids: list[int]
    max_tokens: int
    sampling: Sampling = Sampling()
    incremental: bool = False


@dataclass(frozen=True)
class Tokens:
    """Tokens that are new since the last; `first_token_s` counts from submission.

    `ended` is None until the last, which says whether the model ended its answer itself.
    """

    ids: list[int]
    ended: bool | None
    first_token_s: float


@dataclass(frozen=True)
class EngineStats:
    """Requests inside the engine."""

    running: int
    waiting: int


class Engine(Protocol):
    """Generates with one version of a model; `start` to `stop`, once."""

    @property
    def max_context_tokens(self) -> int:
        """Prompt and answer of one request."""

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
