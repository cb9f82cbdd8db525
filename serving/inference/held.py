"""A loaded model: its folder, its engine, who uses it, and how its memory is given back."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from serving.inference.engine import Engine, EngineStopped
from serving.inference.loader import ModelFolder
from serving.inference.management import Owner
from serving.inference.stopped_engine import StoppedEngine

logger = logging.getLogger(__name__)

FREED_WITHIN_S = 10.0


@dataclass(eq=False)
class HeldModel:
    """A loaded model; `last_used` orders models by when a request last began.

    `unrestored_because` is set where its dead engine was tried in vain to be started again.
    """

    folder: ModelFolder
    engine: Engine
    loaded_at: datetime
    owner: Owner | None = None
    needed_bytes: int = 0
    in_flight: int = 0
    request_count: int = 0
    last_used: float = 0.0
    last_used_at: datetime | None = None
    unrestored_because: str = ""
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def weights_sha256(self) -> str:
        return self.folder.weights_sha256

    @property
    def step_id(self) -> str | None:
        return None if self.folder.step is None else f"checkpoint-{self.folder.step}"

    @cached_property
    def control_tokens(self) -> frozenset[str]:
        return self.folder.renderer.special_tokens()

    def require_alive(self) -> "HeldModel":
        """The model itself.

        Raises:
            EngineStopped: if its engine is dead.
        """
        if not self.engine.alive:
            raise EngineStopped(
                f"the engine of {self.name} has stopped and could not be started again: {self.unrestored_because}"
                if self.unrestored_because
                else f"the engine of {self.name} has stopped; the server loads the champion anew by itself"
            )
        return self

    @contextmanager
    def lease(self) -> Iterator["HeldModel"]:
        """Keep the model's engine running while a request uses it."""
        self.in_flight += 1
        self.request_count += 1
        self.last_used, self.last_used_at = time.monotonic(), datetime.now(UTC)
        self.idle.clear()
        try:
            yield self
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()


async def free(model: HeldModel) -> None:
    """Stop an engine once its last request has ended, and forget it; the requests of a dead one fail at once."""
    try:
        if model.engine.alive:
            await model.idle.wait()
    finally:
        engine, model.engine = model.engine, StoppedEngine()
        await asyncio.to_thread(engine.stop)
    logger.info("let go of %s, weights %s", model.name, model.weights_sha256)


async def freed(task: "asyncio.Task[None]") -> None:
    """Wait for what `free` frees, and no longer than that for a client that does not read its answer."""
    await asyncio.wait({task}, timeout=FREED_WITHIN_S)
