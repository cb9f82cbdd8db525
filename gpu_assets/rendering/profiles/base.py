"""What a data profile promises."""

from collections.abc import Sequence
from typing import Protocol

Message = dict[str, str]
"""`role` (system, user or assistant) and `content`."""


class DataProfile(Protocol):
    """Shapes conversations; the same for training, evaluation and serving."""

    @property
    def name(self) -> str:
        """The id in config.json and in manifests."""

    @property
    def version(self) -> str:
        """Changes whenever the shaped conversations change."""

    def transform_example(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        """A training conversation; deterministic in its content, never in its position."""

    def transform_prompt(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        """A conversation to answer, shaped as the training rows were."""
