"""Chat completions as the platform's clients send and read them. Pure.

A completion is idempotent by nature: one that is repeated leaves nothing behind, so the inference server keeps no
`Idempotency-Key` and none is sent.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from resources.services.exchange import Call

PATH = "/v1/chat/completions"
DONE = "[DONE]"

Message = dict[str, str]


@dataclass(frozen=True)
class ChatAnswer:
    """One answer and the weights that gave it; `finish_reason` is stop, or length where it was cut off."""

    text: str
    finish_reason: str
    model: str
    weights_sha256: str
    completion_tokens: int


@dataclass(frozen=True)
class ChatPiece:
    """What an answer says next, which may be nothing; `finish_reason` is there at its end."""

    text: str
    finish_reason: str | None
    model: str
    weights_sha256: str


class _AnswerMessage(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _AnswerMessage
    finish_reason: str


class _Usage(msgspec.Struct):
    completion_tokens: int


class Completion(msgspec.Struct):
    """What the platform reads of a completion with one choice."""

    model: str
    system_fingerprint: str
    choices: tuple[_Choice]
    usage: _Usage

    @property
    def answer(self) -> ChatAnswer:
        choice = self.choices[0]
        return ChatAnswer(
            text=choice.message.content,
            finish_reason=choice.finish_reason,
            model=self.model,
            weights_sha256=self.system_fingerprint,
            completion_tokens=self.usage.completion_tokens,
        )


class _Delta(msgspec.Struct):
    content: str | None = None


class _ChunkChoice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class _ErrorDetail(msgspec.Struct):
    message: str


class _Chunk(msgspec.Struct):
    """An event of a stream: a piece, or the error that ended it."""

    model: str = ""
    system_fingerprint: str = ""
    choices: tuple[_ChunkChoice, ...] = ()
    error: _ErrorDetail | None = None


def body(
    messages: Sequence[Message], *, model: str, max_tokens: int | None, temperature: float, stream: bool = False
) -> dict[str, Any]:
    """A request; without `max_tokens` the answer may fill the context."""
    wanted: dict[str, Any] = {"model": model, "messages": messages, "temperature": temperature}
    if max_tokens is not None:
        wanted["max_tokens"] = max_tokens
    if stream:
        wanted["stream"] = True
    return wanted


def pieces(call: Call, events: Iterable[str]) -> Iterator[ChatPiece]:
    """The pieces of a streamed answer.

    Raises:
        ServiceUnavailable: if the service ended it with an error, or it ends before it is said to.
        ServiceDecodeError: if an event is not a chunk.
    """
    for data in events:
        if data == DONE:
            return
        chunk = call.decode(data.encode(), _Chunk)
        if chunk.error is not None:
            raise call.unavailable(f"the answer ended midway: {chunk.error.message}")
        for choice in chunk.choices:
            text = choice.delta.content or ""
            yield ChatPiece(text, choice.finish_reason, chunk.model, chunk.system_fingerprint)
    raise call.unavailable("the answer ended midway; see the service's log")
