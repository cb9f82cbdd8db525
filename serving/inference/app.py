"""The HTTP application: what is around the routes. The work is done in `chat` and `pool`.

`create_app` loads nothing; the lifespan starts to load torch and the first model, and the server answers meanwhile.
"""

import asyncio
import gc
import importlib.metadata
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from gpu_assets.settings import Settings
from resources.keys import InferenceKeys
from serving.inference.auth import Gate
from serving.inference.document import REFUSALS, DocumentedApp
from serving.inference.engine import Engine
from serving.inference.errors import install_error_handlers
from serving.inference.loader import ModelFolder
from serving.inference.memory import Memory, gpu_memory, torch_memory
from serving.inference.metrics import Metrics
from serving.inference.pool import LoadEngine, ModelPool
from serving.inference.recorded import End, start_serving
from serving.inference.routes.models import model_routes
from serving.inference.routes.openai import openai_routes
from serving.inference.routes.status import health_routes, host_routes, metrics_routes
from serving.inference.watch import start_watching

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    keys: InferenceKeys,
    model: Path | None = None,
    load_engine: LoadEngine | None = None,
    end: End | None = None,
) -> FastAPI:
    """The server.

    Args:
        model: the first champion, which the platform may let go once another is; without one it is what is recorded
            as deployed, and before anything is the server waits for its first deployment.
        load_engine: makes the engine of a folder, in the host's memory; by default the one of `serving.engine`.
        end: ends the process, where `model` cannot be served or a dead engine not be restored; by default that is
            logged only.

    Raises:
        SettingsError: if that is not installed.
        ArtifactInvalid: if the list of registered models is not readable.
    """
    if load_engine is None:
        pool = ModelPool(settings, _engine_loader(settings), _memory(settings))
    else:
        pool = ModelPool(settings, load_engine)
    metrics = Metrics(pool)
    app = DocumentedApp(
        title="gpu-assets inference",
        version=_version(),
        redirect_slashes=False,
        lifespan=_lifespan(
            pool,
            metrics,
            model,
            end or _log,
            preload=load_engine is None and settings.serving.engine == "hf",
        ),
        responses=REFUSALS,
    )
    app.state.metrics = metrics
    app.include_router(health_routes(pool, app.version))
    app.include_router(openai_routes(pool, metrics, settings.serving))
    app.include_router(model_routes(pool, metrics))
    app.include_router(host_routes(settings.home, app.version))
    app.include_router(metrics_routes(metrics))
    install_error_handlers(app, metrics.refused)
    app.add_middleware(Gate, keys=keys, serving=settings.serving, metrics=metrics)
    return app


def _lifespan(
    pool: ModelPool, metrics: Metrics, model: Path | None, end: End, preload: bool
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = {start_serving(pool, model, end), start_watching(pool, metrics.engine_restarted, end)}
        if preload:
            tasks.add(asyncio.create_task(asyncio.to_thread(_import_engine)))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await pool.close()

    return lifespan


def _log(error: Exception) -> None:
    logger.error("this server should end: %s", error, exc_info=error)


def _engine_loader(settings: Settings) -> LoadEngine:
    if settings.serving.engine == "vllm":
        from serving.inference import vllm_engine

        vllm_engine.vllm_program(settings)
        return partial(vllm_engine.load_engine, settings=settings)

    def load(folder: ModelFolder) -> Engine:
        from serving.inference.transformers_engine import load_engine

        return load_engine(folder, settings.serving)

    return load


def _memory(settings: Settings) -> Callable[[], Memory]:
    return gpu_memory if settings.serving.engine == "vllm" else torch_memory


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
