"""Raw completions: a request's answers as one object, or as a stream of events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from serving.inference.answers import TextChoice, TextCompletion
from serving.inference.choices import Piece
from serving.inference.errors import api_error
from serving.inference.logprobs import completion_logprobs
from serving.inference.metrics import Metrics
from serving.inference.requests import Completion
from serving.inference.streaming import DONE, event


async def answer(completion: Completion, metrics: Metrics) -> str:
    """The whole answer at once, as JSON."""
    pieces = await completion.answers(metrics)
    choices = [_choice(completion, index, piece, first=True) for index, piece in enumerate(pieces)]
    return _dump(completion, choices=choices, usage=completion.usage)


async def events(completion: Completion, metrics: Metrics) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events; an engine that dies midway ends them with an error event."""
    begun: set[int] = set()
    try:
        async with aclosing(completion.pieces(metrics)) as pieces:
            async for index, piece in pieces:
                if piece.text or piece.logprobs or piece.finish_reason or (completion.token_ids and piece.token_ids):
                    choice = _choice(completion, index, piece, first=index not in begun)
                    begun.add(index)
                    yield event(_dump(completion, choices=[choice]))
        if completion.usage_in_stream:
            yield event(_dump(completion, choices=[], usage=completion.usage))
    except Exception as error:
        yield event(api_error(error, completion.id).body.model_dump_json())
        return
    yield DONE


def _choice(completion: Completion, index: int, piece: Piece, first: bool) -> TextChoice:
    """A whole answer, or a piece of one; what is of the prompt stands before the first."""
    echo = completion.echoes[index] if first and completion.echoes else ""
    ids: dict[str, Any] = {}
    if completion.token_ids:
        ids["token_ids"] = piece.token_ids
        if first:
            ids["prompt_token_ids"] = completion.choices[index].generation.prompt_ids
    texts = completion.token_texts
    return TextChoice(
        index=index,
        text=echo + piece.text,
        logprobs=None if texts is None else completion_logprobs(piece.logprobs, texts),
        finish_reason=piece.finish_reason,
        **ids,
    )


def _dump(completion: Completion, **content: Any) -> str:
    if completion.usage_in_stream:
        content.setdefault("usage", None)
    body = TextCompletion(object="text_completion", **completion.identity, **content)
    return body.model_dump_json(exclude_unset=True)
