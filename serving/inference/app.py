"""The HTTP application: routes, and what is around them. The work is done in `chat` and `pool`.

`create_app` loads nothing; the first model and torch itself are loaded in the lifespan.
"""

import asyncio
import gc
import importlib.metadata
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gpu_assets.settings import Serving, Settings
from resources.keys import InferenceKeys
from serving.inference.auth import Gate
from serving.inference.body import JsonRoute
from serving.inference.chat import answer, events, prepare
from serving.inference.engine import Engine
from serving.inference.errors import install_error_handlers
from serving.inference.loader import ModelFolder
from serving.inference.metrics import Metrics
from serving.inference.pool import CHAMPION, HeldModel, LoadEngine, ModelPool
from serving.inference.protocol import (
    ChatCompletion,
    ChatCompletionRequest,
    ErrorBody,
    Health,
    ModelCard,
    ModelId,
    ModelInfo,
    ModelList,
    ModelPath,
    PoolInfo,
    Readiness,
    Reloaded,
    Undeployed,
    Unloaded,
)

CLIENT_GONE = 499
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def create_app(
    settings: Settings, keys: InferenceKeys, model: Path | None = None, load_engine: LoadEngine | None = None
) -> FastAPI:
    """The server.

    Args:
        model: the first champion, which the platform may let go once another is; without one the server waits
            for its first deployment.
        load_engine: makes the engine of a folder; transformers' by default.
    """
    pool = ModelPool(settings, load_engine or _transformers_loader(settings.serving))
    refusals = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}
    app = FastAPI(
        title="gpu-assets inference",
        version=_version(),
        redirect_slashes=False,
        lifespan=_lifespan(pool, model, preload=load_engine is None),
        responses=refusals,  # type: ignore[arg-type]
    )
    metrics = Metrics(pool)
    app.include_router(_health_routes(pool, app.version))
    app.include_router(_chat_routes(pool, metrics, settings.serving))
    app.include_router(_model_routes(pool))
    app.include_router(_metrics_routes(metrics))
    install_error_handlers(app)
    app.add_middleware(Gate, keys=keys)
    return app


def _health_routes(pool: ModelPool, version: str) -> APIRouter:
    router, started = APIRouter(), time.monotonic()

    @router.get("/health")
    async def health() -> Health:
        """The process is alive; says nothing about a model."""
        return Health(version=version, uptime_s=round(time.monotonic() - started, 3))

    @router.get("/ready")
    async def ready() -> Readiness:
        """The champion answers."""
        champion = pool.require_ready()
        return Readiness(model=champion.name, weights_sha256=champion.weights_sha256)

    return router


def _chat_routes(pool: ModelPool, metrics: Metrics, serving: Serving) -> APIRouter:
    router = APIRouter(prefix="/v1", route_class=JsonRoute)

    @router.post("/chat/completions", response_model=ChatCompletion)
    async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation, at once or as a stream of events."""
        with ExitStack() as stack:
            model = stack.enter_context(pool.find(body.model).require_alive().lease())
            completion = await prepare(body, model, serving.max_queue)
            if body.stream:
                return _EventStream(events(completion, metrics, body.include_usage), stack.pop_all())
            whole = await _unless_gone(request, asyncio.ensure_future(answer(completion, metrics)))
        if whole is None:
            return Response(status_code=CLIENT_GONE)
        return Response(whole.model_dump_json(), media_type="application/json")

    @router.get("/models")
    async def list_models() -> ModelList:
        """The alias and what is held."""
        return ModelList(data=_cards(pool))

    @router.get("/models/{model_id}")
    async def get_model(model_id: str) -> ModelCard:
        """What an id means now."""
        return ModelCard(id=model_id, created=_created(pool.find(model_id)))

    return router


def _model_routes(pool: ModelPool) -> APIRouter:
    router = APIRouter(prefix="/models", route_class=JsonRoute)

    @router.get("/info")
    async def info() -> ModelInfo:
        """The champion."""
        return pool.info(pool.champion)

    @router.get("/pool")
    async def describe() -> PoolInfo:
        """All held models."""
        return pool.describe()

    @router.post("/pool/load")
    async def load(body: ModelPath) -> ModelInfo:
        """Hold a model beside the champion."""
        return pool.info(await pool.load(Path(body.model_path), body.owner))

    @router.post("/pool/unload")
    async def unload(body: ModelId) -> Unloaded:
        """Let go of a model that is not the champion."""
        model = await pool.unload(body.id)
        return Unloaded(id=body.id, weights_sha256=model.weights_sha256)

    @router.post("/reload")
    async def reload(body: ModelPath) -> Reloaded:
        """Make a model the champion."""
        begun = time.perf_counter()
        model = await pool.reload(Path(body.model_path), body.owner)
        seconds = round(time.perf_counter() - begun, 3)
        return Reloaded(**pool.info(model).model_dump(), seconds=seconds)

    @router.post("/undeploy")
    async def undeploy(body: ModelId) -> Undeployed:
        """Make no model the champion; the id is the champion's."""
        model = await pool.undeploy(body.id)
        return Undeployed(weights_sha256=None if model is None else model.weights_sha256)

    return router


def _metrics_routes(metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics")
    async def render() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.render(), media_type=METRICS_TYPE)

    return router


class _EventStream(StreamingResponse):
    """Server-sent events; the generation is cancelled and the model released however the response ends."""

    def __init__(self, content: AsyncGenerator[bytes, None], held: ExitStack) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._content = content
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            async with aclosing(self._content):
                await super().__call__(scope, receive, send)


async def _unless_gone(request: Request, answering: "asyncio.Future[ChatCompletion]") -> ChatCompletion | None:
    """The answer, or None if the client went away first; then the generation is cancelled."""
    gone = asyncio.ensure_future(_disconnected(request))
    tasks: list[asyncio.Future[Any]] = [answering, gone]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return await answering if answering.done() else None
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


def _lifespan(
    pool: ModelPool, model: Path | None, preload: bool
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        importing = asyncio.create_task(asyncio.to_thread(_import_engine)) if preload else None
        if model is not None:
            await pool.reload(model, owner="platform")
        yield
        await pool.close()
        if importing is not None:
            await importing

    return lifespan


def _transformers_loader(serving: Serving) -> LoadEngine:
    def load(folder: ModelFolder) -> Engine:
        from serving.inference.transformers_engine import load_engine

        return load_engine(folder, serving)

    return load


def _import_engine() -> None:
    """Import torch before the first deployment needs it: that takes seconds.

    The million objects that come with it are frozen: an engine that ends collects garbage, and
    walking them would hold up the event loop for half a second.
    """
    import serving.inference.transformers_engine  # noqa: F401

    gc.collect()
    gc.freeze()


def _version() -> str:
    try:
        return importlib.metadata.version("gpu-assets")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"
