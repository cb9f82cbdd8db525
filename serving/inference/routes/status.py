"""What the server tells of itself: whether it lives, whether it answers, its figures, and what it runs on."""

import time
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from serving.inference.host import gpus, host, versions
from serving.inference.management import Gpus, Health, Host, Readiness, Versions
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

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def render() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.render(), media_type=METRICS_TYPE)

    return router


def host_routes(home: Path, version: str) -> APIRouter:
    """What blocks while it looks, so each answers in a thread."""
    router = APIRouter()

    @router.get("/version")
    def version_of_everything() -> Versions:
        """What is installed."""
        return versions(version)

    @router.get("/gpu")
    def gpu() -> Gpus:
        """The GPUs of the server's host."""
        return gpus()

    @router.get("/system")
    def system() -> Host:
        """The server's host and process."""
        return host(home)

    return router
