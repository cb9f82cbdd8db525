"""The HTTP application: what is around the routes. The work is done in `chat` and `pool`.

`create_app` loads nothing; the first model and torch itself are loaded in the lifespan.
"""

import asyncio
import gc
import importlib.metadata
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from gpu_assets.settings import Serving, Settings
from resources.keys import InferenceKeys
from serving.inference.auth import Gate
from serving.inference.engine import Engine
from serving.inference.errors import install_error_handlers
from serving.inference.loader import ModelFolder
from serving.inference.metrics import Metrics
from serving.inference.pool import LoadEngine, ModelPool
from serving.inference.protocol import ErrorBody
from serving.inference.routes.models import model_routes
from serving.inference.routes.openai import openai_routes
from serving.inference.routes.status import health_routes, metrics_routes


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
    app.include_router(health_routes(pool, app.version))
    app.include_router(openai_routes(pool, metrics, settings.serving))
    app.include_router(model_routes(pool))
    app.include_router(metrics_routes(metrics))
    install_error_handlers(app)
    app.add_middleware(Gate, keys=keys)
    return app


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
