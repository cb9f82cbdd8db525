"""One chat completion: request to tokens, tokens to an answer or a stream of events."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from serving.inference.engine import Generation, Sampling
from serving.inference.errors import RETRY_AFTER_S, ApiError, api_error
from serving.inference.metrics import Metrics
from serving.inference.pool import HeldModel
from serving.inference.protocol import (
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChunkChoice,
    Delta,
    FinishReason,
    Usage,
)
from serving.inference.streaming import DONE, TextStream, event

INLINE_CHARACTERS = 8192
"""Longer conversations are rendered in a thread, so that the event loop is not held up."""


@dataclass
class Completion:
    """A request on its way: what was asked, of which model, and what came of it so far."""

    model: HeldModel
    generation: Generation
    stop_strings: tuple[str, ...]
    begun: float
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    completion_tokens: int = 0
    first_token_s: float = 0.0
    finish_reason: FinishReason = "length"

    async def pieces(self, metrics: Metrics) -> AsyncGenerator[str, None]:
        """Text of the answer as it becomes certain; closing the iterator cancels the generation."""
        tokenizer = self.model.folder.renderer.tokenizer
        text = TextStream(tokenizer.decode, self.stop_strings)
        try:
            async with aclosing(self.model.engine.generate(self.generation)) as batches:
                async for tokens in batches:
                    self.completion_tokens += len(tokens.ids)
                    self.first_token_s = tokens.first_token_s
                    if piece := text.push(tokens.ids):
                        yield piece
                    if tokens.ended or text.stopped:
                        self.finish_reason = "stop"
                        break
            if piece := text.finish():
                yield piece
            if text.stopped:
                self.finish_reason = "stop"
        finally:
            self._record(metrics)

    @property
    def usage(self) -> Usage:
        prompt = len(self.generation.prompt_ids)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=self.completion_tokens,
            total_tokens=prompt + self.completion_tokens,
        )

    def _record(self, metrics: Metrics) -> None:
        metrics.record(
            self.model.name,
            prompt_tokens=len(self.generation.prompt_ids),
            completion_tokens=self.completion_tokens,
            first_token_s=self.first_token_s,
            seconds=time.perf_counter() - self.begun,
        )


async def prepare(request: ChatCompletionRequest, model: HeldModel, max_queue: int) -> Completion:
    """Render a request for a model.

    Raises:
        ApiError: if it does not fit the context, holds what no message may, or the queue is full.
        RenderingError: if the template refuses the conversation.
    """
    begun = time.perf_counter()
    _check_queue(model, max_queue)
    _check_texts(request, model)
    prompt_ids = await _prompt_ids(request, model)
    generation = Generation(
        prompt_ids=prompt_ids,
        max_tokens=_max_tokens(request, len(prompt_ids), model.engine.max_context_tokens),
        sampling=Sampling(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            top_k=request.top_k or 0,
            seed=request.seed,
        ),
        incremental=bool(request.stream) or bool(request.stop_strings),
    )
    return Completion(model, generation, request.stop_strings, begun)


async def answer(completion: Completion, metrics: Metrics) -> ChatCompletion:
    """The whole answer at once."""
    async with aclosing(completion.pieces(metrics)) as pieces:
        text = "".join([piece async for piece in pieces])
    choice = Choice(message=AnswerMessage(content=text), finish_reason=completion.finish_reason)
    return ChatCompletion(
        id=completion.id,
        created=completion.created,
        model=completion.model.name,
        choices=[choice],
        usage=completion.usage,
        system_fingerprint=completion.model.weights_sha256,
    )


async def events(completion: Completion, metrics: Metrics, include_usage: bool) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events; an engine that dies midway ends them with an error event."""
    try:
        yield _chunk(completion, Delta(role="assistant", content=""))
        async with aclosing(completion.pieces(metrics)) as pieces:
            async for piece in pieces:
                yield _chunk(completion, Delta(content=piece))
        yield _chunk(completion, Delta(), completion.finish_reason)
        if include_usage:
            yield _event(completion, choices=[], usage=completion.usage)
    except Exception as error:
        yield event(api_error(error).body.model_dump_json())
        return
    yield DONE


def _chunk(completion: Completion, delta: Delta, finish_reason: FinishReason | None = None) -> bytes:
    choice = ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=finish_reason)
    return _event(completion, choices=[choice])


def _event(completion: Completion, **content: Any) -> bytes:
    chunk = ChatCompletionChunk(
        id=completion.id,
        object="chat.completion.chunk",
        created=completion.created,
        model=completion.model.name,
        system_fingerprint=completion.model.weights_sha256,
        **content,
    )
    return event(chunk.model_dump_json(exclude_unset=True))


def _check_queue(model: HeldModel, max_queue: int) -> None:
    waiting = model.engine.stats().waiting
    if waiting >= max_queue:
        raise ApiError(
            429,
            f"{waiting} requests wait for {model.name}, at most {max_queue} may (serving.max_queue); try again later",
            code="queue_full",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )


def _check_texts(request: ChatCompletionRequest, model: HeldModel) -> None:
    for index, message in enumerate(request.messages):
        problem = _problem(message.text, model)
        if problem is not None:
            where = f"messages.{index}.content"
            raise ApiError(400, f"{where} holds {problem}; take it out", code="invalid_value", param=where)


def _problem(text: str, model: HeldModel) -> str | None:
    """What no message may hold: a control token would end the turn and speak as another role."""
    token = next((token for token in model.control_tokens if token in text), None)
    if token is not None:
        return f"{token!r}, a control token of {model.name}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{error.object[error.start]!r}, half of a surrogate pair"
    return None


async def _prompt_ids(request: ChatCompletionRequest, model: HeldModel) -> list[int]:
    messages = [{"role": message.role, "content": message.text} for message in request.messages]
    renderer = model.folder.renderer
    if sum(len(message["content"]) for message in messages) <= INLINE_CHARACTERS:
        return renderer.prompt_ids(messages)
    return await asyncio.to_thread(renderer.prompt_ids, messages)


def _max_tokens(request: ChatCompletionRequest, prompt_tokens: int, context: int) -> int:
    """Tokens that the answer may have."""
    wanted = request.token_limit
    if prompt_tokens + (wanted or 1) > context:
        asked = f" and {wanted} for the answer" if wanted else ""
        raise ApiError(
            400,
            f"this model's context is {context} tokens, the request has {prompt_tokens} in the messages{asked}; "
            "shorten the messages or lower max_tokens",
            code="context_length_exceeded",
            param="messages",
        )
    return wanted if wanted is not None else context - prompt_tokens
