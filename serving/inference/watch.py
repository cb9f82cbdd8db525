"""Engines that die are noticed and done away with: the champion's is loaded anew, without anybody's doing."""

import asyncio
import logging
from collections.abc import Callable

import tenacity

from serving.inference.held import HeldModel
from serving.inference.pool import ModelPool

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
TRIES_BEFORE_UNREADY = 3
"""After so many a fresh process may do better, as after an error that a GPU's context does not survive: /ready then
says that the engine has stopped, on which the supervisor starts the process again.
"""
MAX_PAUSE_S = 30.0


def start_watching(pool: ModelPool, restored: Callable[[], None]) -> "asyncio.Task[None]":
    """Watch from now on, until the task is cancelled.

    Args:
        restored: called when a champion's engine was loaded anew.
    """
    pool.restoring = True
    return asyncio.create_task(_watch(pool, restored))


async def _watch(pool: ModelPool, restored: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        for model in pool.models:
            if not model.engine.alive:
                await _restore(pool, model, restored)


async def _restore(pool: ModelPool, model: HeldModel, restored: Callable[[], None]) -> None:
    """Try until it is done, or was done by somebody else; the pauses double from a second up."""
    logger.error("the engine of %s, weights %s, has stopped", model.name, model.weights_sha256)

    def before_sleep(state: tenacity.RetryCallState) -> None:
        pool.restoring = state.attempt_number < TRIES_BEFORE_UNREADY
        pause_s = 0.0 if state.next_action is None else state.next_action.sleep
        error = None if state.outcome is None else state.outcome.exception()
        logger.error("%s is not served again, next try in %g s", model.name, pause_s, exc_info=error)

    trying = tenacity.AsyncRetrying(
        wait=tenacity.wait_exponential(multiplier=1, max=MAX_PAUSE_S), before_sleep=before_sleep
    )
    try:
        if await trying(pool.restore, model):
            restored()
            logger.info("%s, weights %s, is served again", model.name, model.weights_sha256)
    finally:
        pool.restoring = True
