"""Engines that die are noticed and done away with: the champion's is loaded anew, without anybody's doing."""

import asyncio
import logging
import time
from collections.abc import Callable

import tenacity

from gpu_assets.errors import ArtifactInvalid, PlatformError, SettingsError
from serving.inference.held import HeldModel
from serving.inference.pool import ModelPool
from serving.inference.recorded import End

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
TRIES_IN_THIS_PROCESS = 3
"""After so many a fresh process may do better, as after an error that a GPU's context does not survive."""
MAX_PAUSE_S = 30.0
NOT_OF_THIS_PROCESS = (ArtifactInvalid, SettingsError)
"""What a fresh process would meet too."""


class EngineBeyondRepair(PlatformError):
    """The champion's engine is dead, and this process cannot start it again."""


def start_watching(pool: ModelPool, restored: Callable[[], None], end: End) -> "asyncio.Task[None]":
    """Watch from now on, until the task is cancelled.

    Args:
        restored: called when a champion's engine was loaded anew.
        end: called when that failed too often and a fresh process may do better.
    """
    pool.restoring = True
    return asyncio.create_task(_watch(pool, restored, end))


async def _watch(pool: ModelPool, restored: Callable[[], None], end: End) -> None:
    """Each dead engine has a task of its own: one that cannot be restored keeps no other waiting."""
    at_work: dict[HeldModel, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as tasks:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            at_work = {model: task for model, task in at_work.items() if not task.done()}
            for model in pool.models:
                if not model.engine.alive and model not in at_work:
                    at_work[model] = tasks.create_task(_restore(pool, model, restored, end))


async def _restore(pool: ModelPool, model: HeldModel, restored: Callable[[], None], end: End) -> None:
    """Try until it is done, was done by somebody else, or is not wanted any more; the pauses double from a second."""
    logger.error("the engine of %s, weights %s, has stopped", model.name, model.weights_sha256)

    def failed(state: tenacity.RetryCallState) -> None:
        pause_s = 0.0 if state.next_action is None else state.next_action.sleep
        error = None if state.outcome is None else state.outcome.exception()
        logger.error("%s is not served again, next try in %g s", model.name, pause_s, exc_info=error)
        if error is not None and state.attempt_number >= TRIES_IN_THIS_PROCESS:
            model.unrestored_because = pool.without_home(error)
            if not isinstance(error, NOT_OF_THIS_PROCESS):
                end(EngineBeyondRepair(f"{model.name} is not served again after {state.attempt_number} tries: {error}"))

    async def pause(seconds: float) -> None:
        """A model that is not the champion any more is let go at once."""
        over = time.monotonic() + seconds
        while pool.champion is model and (left_s := over - time.monotonic()) > 0:
            await asyncio.sleep(min(LOOK_EVERY_S, left_s))

    wait = tenacity.wait_exponential(multiplier=1, max=MAX_PAUSE_S)
    if await tenacity.AsyncRetrying(sleep=pause, wait=wait, before_sleep=failed)(pool.restore, model):
        restored()
        logger.info("%s, weights %s, is served again", model.name, model.weights_sha256)
