"""Our own model management: what is held, and which of it is the champion."""

import time
from pathlib import Path

from fastapi import APIRouter

from serving.inference.body import JsonRoute
from serving.inference.management import ModelId, ModelInfo, ModelPath, PoolInfo, Reloaded, Undeployed, Unloaded
from serving.inference.pool import ModelPool


def model_routes(pool: ModelPool) -> APIRouter:
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
