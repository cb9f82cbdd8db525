"""What the server tells of itself: whether it lives, whether it answers, and its figures."""

import time

from fastapi import APIRouter
from starlette.responses import Response

from serving.inference.management import Health, Readiness
from serving.inference.metrics import Metrics
from serving.inference.pool import ModelPool

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def health_routes(pool: ModelPool, version: str) -> APIRouter:
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


def metrics_routes(metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics")
    async def render() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.render(), media_type=METRICS_TYPE)

    return router
