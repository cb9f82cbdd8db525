"""What a data profile promises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tokenizers import Tokenizer

Message = dict[str, str]
"""`role` (system, user or assistant) and `content`."""


@dataclass(frozen=True)
class Bias:
    """What is added to one row's logits at one step: `tokens` to those tokens, `others` to all the rest."""

    others: float = 0.0
    tokens: Mapping[int, float] = field(default_factory=dict)


NO_BIAS = Bias()


class RowProcessor(Protocol):
    """Steers the answer of one row of a batch; every row has one of its own."""

    def bias(self, generated: Sequence[int]) -> Bias:
        """What the next token's logits are changed by, after these tokens of the answer.

        A function of the prompt and of these tokens alone, whatever was asked before; tokens that only add
        to those of the last call are looked at once.
        """


class LogitsProcessor(Protocol):
    """Steers answers in a checkpoint's profile; one for all rows, without a state. Knows nothing of torch."""

    def of_row(self, prompt: Sequence[int]) -> RowProcessor:
        """The processor of an answer to this prompt."""


class DataProfile(Protocol):
    """Shapes conversations; the same for training, evaluation and serving."""

    @property
    def name(self) -> str:
        """The id in config.json and in manifests."""

    @property
    def version(self) -> str:
        """Changes whenever the shaped conversations change, or what is done to logits."""

    @property
    def replaces_thinking_template(self) -> bool:
        """Whether a model whose own template has think blocks is trained and served with plain ChatML."""

    def system_prompt(self, configured: str | None) -> str | None:
        """What is put before conversations that have no system message, or None."""

    def transform_prompt(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        """A conversation to answer. `system_prompt` is the configured one.

        Deterministic in the conversation's content, never in its position. Where a turn has been answered by the
        model in this profile, and where it is a training row's, the same must come out.
        """

    def transform_example(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        """A conversation whose last turn is the answer to learn: the prompt of the turns before it, and that answer."""

    def validate_example(self, messages: Sequence[Message]) -> str | None:
        """What makes a training conversation unfit for the profile, as a sentence; None if nothing does."""

    def bare_answer(self, answer: str) -> str:
        """What an answer in this profile says, without what the profile puts around it; what scoring reads."""

    def logits_processors(self, tokenizer: Tokenizer, end_token: str) -> Sequence[LogitsProcessor]:
        """What changes logits while answers are generated; `end_token` ends an answer."""


def with_system_prompt(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """The conversation with a system message at its head; one that is there already stays, an empty one is none."""
    if not system_prompt or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]
