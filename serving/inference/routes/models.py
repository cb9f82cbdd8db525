"""Our own model management: what is registered, what is held, and which of it is the champion."""

import asyncio
import time
from pathlib import Path

from fastapi import APIRouter

from serving.inference.body import JsonRoute
from serving.inference.describe import active_model, list_models, listed_registration, model_info, pool_info
from serving.inference.errors import ApiError
from serving.inference.held import HeldModel
from serving.inference.loader import NotAModelFolder, inspect_folder
from serving.inference.management import (
    ActiveModel,
    ModelId,
    ModelInfo,
    ModelListing,
    ModelPath,
    ModelPathOrId,
    PoolInfo,
    Registered,
    Registering,
    Reloaded,
    Undeployed,
    Unloaded,
)
from serving.inference.metrics import Metrics
from serving.inference.pool import ModelPool


def model_routes(pool: ModelPool, metrics: Metrics) -> APIRouter:
    router = APIRouter(prefix="/models", route_class=JsonRoute)
    _add_questions(router, pool)
    _add_changes(router, pool)
    _add_flips(router, pool, metrics)
    return router


def _add_questions(router: APIRouter, pool: ModelPool) -> None:
    @router.get("")
    async def listing() -> ModelListing:
        """What is registered or held."""
        return list_models(pool)

    @router.get("/active")
    async def active() -> ActiveModel:
        """What the alias points at."""
        return active_model(pool)

    @router.get("/info")
    async def info() -> ModelInfo:
        """The champion."""
        return model_info(pool, pool.champion)

    @router.get("/pool")
    async def describe() -> PoolInfo:
        """All held models."""
        return pool_info(pool)


def _add_changes(router: APIRouter, pool: ModelPool) -> None:
    """What leaves the alias alone."""

    @router.post("/register")
    async def register(body: Registering) -> Registered:
        """Give a folder's model an id, by which it can be loaded, and asked once it is."""
        try:
            folder = await asyncio.to_thread(inspect_folder, Path(body.source), pool.settings.profile)
        except NotAModelFolder as error:
            raise ApiError(400, str(error), code="invalid_model_folder", param="source") from error
        model = pool.register(body.id, body.source, folder, body.tags)
        return Registered(**listed_registration(pool, model).model_dump())

    @router.post("/pool/load")
    async def load(body: ModelPathOrId) -> ModelInfo:
        """Hold a model beside the champion."""
        if body.id is not None:
            return model_info(pool, await pool.load_by_id(body.id))
        return model_info(pool, await pool.load(Path(body.model_path or ""), body.owner))

    @router.post("/pool/unload")
    async def unload(body: ModelId) -> Unloaded:
        """Let go of a model that is not the champion."""
        model = await pool.unload(body.id)
        return Unloaded(id=body.id, weights_sha256=model.weights_sha256)


def _add_flips(router: APIRouter, pool: ModelPool, metrics: Metrics) -> None:
    """What moves the alias."""

    def reloaded(model: HeldModel, begun: float) -> Reloaded:
        seconds = time.perf_counter() - begun
        metrics.swapped(seconds)
        return Reloaded(**model_info(pool, model).model_dump(), seconds=round(seconds, 3))

    @router.post("/reload")
    async def reload(body: ModelPath) -> Reloaded:
        """Make a folder's model the champion."""
        begun = time.perf_counter()
        return reloaded(await pool.reload(Path(body.model_path), body.owner), begun)

    @router.post("/set_active")
    async def set_active(body: ModelId) -> Reloaded:
        """Make a model that is registered or held the champion; it is loaded if it is not held."""
        begun = time.perf_counter()
        return reloaded(await pool.set_active(body.id), begun)

    @router.post("/undeploy")
    async def undeploy(body: ModelId) -> Undeployed:
        """Make no model the champion; the id is the champion's."""
        model = await pool.undeploy(body.id)
        return Undeployed(weights_sha256=None if model is None else model.weights_sha256)
