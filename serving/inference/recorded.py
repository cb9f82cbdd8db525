"""The first model of a server that starts: what is recorded as deployed, or the folder that it was given."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from gpu_assets.errors import ArtifactInvalid, PlatformError
from resources.deployed import Recorded, bring_over_again, recorded_champion
from resources.workspace import Workspace
from serving.inference.pool import ModelPool

logger = logging.getLogger(__name__)

End = Callable[[Exception], None]
"""Tells the process to end, and why."""


def start_serving(pool: ModelPool, model: Path | None, end: End) -> "asyncio.Task[None]":
    """Load the first model from now on; requests for the champion are told meanwhile that it is loading.

    Args:
        model: its folder; None for what is recorded as deployed.
        end: called where a folder that was given cannot be served.
    """
    pool.starting = True
    return asyncio.create_task(_serve_first(pool, model, end))


async def _serve_first(pool: ModelPool, model: Path | None, end: End) -> None:
    try:
        if model is None:
            await serve_recorded(pool)
        else:
            await pool.serve_first(model, "platform")
    except Exception as error:  # whatever it is, it is why the process ends
        end(error)
    finally:
        pool.starting = False


async def serve_recorded(pool: ModelPool) -> None:
    """Make the recorded champion the pool's, if there is one; nothing that is wrong with it is raised.

    Side effects: brings its folder over from the checkpoints again if it was lost or changed. Where it cannot be
    served, logs why, and the pool says so whenever it is asked for its champion.
    """
    workspace = Workspace(pool.settings.home)
    try:
        recorded = await asyncio.to_thread(recorded_champion, workspace)
        if recorded is not None:
            await _serve(pool, recorded, workspace)
    except Exception as error:  # whatever it is, a server without a model is deployed to, one that ended is not
        logger.error(
            "the server starts without a model: what is recorded as deployed cannot be served: %s. Restore it, or "
            "deploy another: dagster asset materialize -m gpu_assets.definitions --select ranking,deployed_model",
            error,
            exc_info=None if isinstance(error, PlatformError) else error,
        )
        pool.unserved_because = pool.without_home(error)


async def _serve(pool: ModelPool, recorded: Recorded, workspace: Workspace) -> None:
    try:
        await pool.serve_first(recorded.folder, "platform", recorded.weights_sha256)
    except ArtifactInvalid as error:
        logger.warning("%s is brought over from its checkpoint again: %s", recorded.checkpoint, error)
        folder = await asyncio.to_thread(bring_over_again, recorded, workspace)
        await pool.serve_first(folder, "platform", recorded.weights_sha256)
