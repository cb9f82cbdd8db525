"""Chat completions: a request's answers as one object, or as a stream of events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from serving.inference.answers import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    FinishReason,
)
from serving.inference.choices import Piece
from serving.inference.errors import api_error
from serving.inference.logprobs import chat_logprobs
from serving.inference.metrics import Metrics
from serving.inference.requests import Completion
from serving.inference.streaming import DONE, event


async def answer(completion: Completion, metrics: Metrics) -> str:
    """The whole answer at once, as JSON."""
    pieces = await completion.answers(metrics)
    whole = ChatCompletion(
        object="chat.completion",
        choices=[_choice(completion, index, piece) for index, piece in enumerate(pieces)],
        usage=completion.usage,
        **completion.identity,
        **_prompt_ids(completion),
    )
    return whole.model_dump_json(exclude_unset=True)


async def events(completion: Completion, metrics: Metrics) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events; an engine that dies midway ends them with an error event."""
    try:
        first = _prompt_ids(completion)
        for choice in completion.choices:
            yield _chunk(completion, choice.index, Delta(role="assistant", content=""), **first)
            first = {}
        async with aclosing(completion.pieces(metrics)) as pieces:
            async for index, piece in pieces:
                if piece.text or piece.logprobs or (completion.token_ids and piece.token_ids):
                    yield _content(completion, index, piece)
                if piece.finish_reason is not None:
                    yield _chunk(completion, index, Delta(), finish_reason=piece.finish_reason)
        if completion.usage_in_stream:
            yield _event(completion, choices=[], usage=completion.usage)
    except Exception as error:
        yield event(api_error(error, completion.id).body.model_dump_json())
        return
    yield DONE


def _choice(completion: Completion, index: int, piece: Piece) -> ChatChoice:
    assert piece.finish_reason is not None
    return ChatChoice(
        index=index,
        message=AnswerMessage(role="assistant", content=piece.text, refusal=None),
        logprobs=_logprobs(completion, piece),
        finish_reason=piece.finish_reason,
        **_ids(completion, piece),
    )


def _content(completion: Completion, index: int, piece: Piece) -> bytes:
    delta, logprobs = Delta(content=piece.text), _logprobs(completion, piece)
    choice = ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=None, **_ids(completion, piece))
    return _event(completion, choices=[choice])


def _chunk(
    completion: Completion, index: int, delta: Delta, finish_reason: FinishReason | None = None, **beside: Any
) -> bytes:
    choice = ChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=finish_reason)
    return _event(completion, choices=[choice], **beside)


def _event(completion: Completion, **content: Any) -> bytes:
    if completion.usage_in_stream:
        content.setdefault("usage", None)
    chunk = ChatCompletionChunk(object="chat.completion.chunk", **completion.identity, **content)
    return event(chunk.model_dump_json(exclude_unset=True))


def _logprobs(completion: Completion, piece: Piece) -> ChatLogprobs | None:
    texts = completion.token_texts
    return None if texts is None else chat_logprobs(piece.logprobs, texts)


def _ids(completion: Completion, piece: Piece) -> dict[str, Any]:
    return {"token_ids": piece.token_ids} if completion.token_ids else {}


def _prompt_ids(completion: Completion) -> dict[str, Any]:
    return {"prompt_token_ids": completion.choices[0].generation.prompt_ids} if completion.token_ids else {}
