"""OpenAI's API."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import ExitStack, aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gpu_assets.settings import Serving
from serving.inference import chat, completions
from serving.inference.answers import ChatCompletion, ChatCompletionChunk, ModelCard, ModelList, TextCompletion
from serving.inference.body import JsonRoute
from serving.inference.document import EVENT_STREAM, streamed
from serving.inference.held import HeldModel
from serving.inference.metrics import Metrics
from serving.inference.pool import CHAMPION, ModelPool
from serving.inference.protocol import ChatCompletionRequest, CompletionRequest
from serving.inference.requests import prepare_chat, prepare_text

CLIENT_GONE = 499


def openai_routes(pool: ModelPool, metrics: Metrics, serving: Serving) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=JsonRoute)

    @router.post("/chat/completions", response_model=ChatCompletion, responses=streamed(ChatCompletionChunk))
    async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation, at once or as a stream of events."""
        with ExitStack() as stack:
            model = stack.enter_context(pool.find(body.model).require_alive().lease())
            completion = await prepare_chat(body, model, serving.max_queue)
            if body.stream:
                return _EventStream(chat.events(completion, metrics), stack.pop_all())
            return await _whole(request, chat.answer(completion, metrics))

    @router.post("/completions", response_model=TextCompletion, responses=streamed(TextCompletion))
    async def text_completions(body: CompletionRequest, request: Request) -> Response:
        """Continue raw prompts, at once or as a stream of events; control tokens in them are control tokens."""
        with ExitStack() as stack:
            model = stack.enter_context(pool.find(body.model).require_alive().lease())
            completion = await prepare_text(body, model, serving.max_queue)
            if body.stream:
                return _EventStream(completions.events(completion, metrics), stack.pop_all())
            return await _whole(request, completions.answer(completion, metrics))

    @router.get("/models")
    async def list_models() -> ModelList:
        """The alias and what is held."""
        return ModelList(data=_cards(pool))

    @router.get("/models/{model_id}")
    async def get_model(model_id: str) -> ModelCard:
        """What an id means now."""
        return ModelCard(id=model_id, created=_created(pool.find(model_id)))

    return router


class _EventStream(StreamingResponse):
    """Server-sent events; the generation is cancelled and the model released however the response ends."""

    def __init__(self, content: AsyncGenerator[bytes, None], held: ExitStack) -> None:
        super().__init__(content, media_type=EVENT_STREAM, headers={"Cache-Control": "no-cache"})
        self._content = content
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            async with aclosing(self._content):
                await super().__call__(scope, receive, send)


async def _whole(request: Request, answer: Coroutine[Any, Any, str]) -> Response:
    """The answer; if the client goes away first, the generation is cancelled."""
    answering, gone = asyncio.ensure_future(answer), asyncio.ensure_future(_disconnected(request))
    tasks: list[asyncio.Future[Any]] = [answering, gone]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return Response(status_code=CLIENT_GONE)
        return Response(await answering, media_type="application/json")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _cards(pool: ModelPool) -> list[ModelCard]:
    champion = pool.champion
    alias = [] if champion is None else [ModelCard(id=CHAMPION, created=_created(champion))]
    return alias + [ModelCard(id=pool.id_of(model), created=_created(model)) for model in pool.models]


def _created(model: HeldModel) -> int:
    return int(model.loaded_at.timestamp())
