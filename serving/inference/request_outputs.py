"""Brings what the engine's thread makes to the event loops of those who wait for it.

Imports transformers: loaded lazily, by the engine only.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable

from transformers.generation.continuous_batching.continuous_api import BackgroundThreadStatus, OutputRouter
from transformers.generation.continuous_batching.requests import GenerationOutput

from gpu_assets.errors import PlatformError

Inbox = asyncio.Queue[GenerationOutput | PlatformError]
"""Outputs of one request, each with all tokens before it, or why there will be no more."""


class RequestOutputs(OutputRouter):
    """An inbox a request. Outputs that nobody waits for any more are dropped; the base would keep them for ever."""

    def __init__(self) -> None:
        super().__init__()
        self._inboxes: dict[str, tuple[asyncio.AbstractEventLoop, Inbox]] = {}

    def open(self, request_id: str) -> Inbox:
        """The inbox of a request, on the running event loop."""
        inbox = Inbox()
        with self._lock:
            self._inboxes[request_id] = (asyncio.get_running_loop(), inbox)
        return inbox

    def close(self, request_id: str) -> None:
        with self._lock:
            self._inboxes.pop(request_id, None)

    def deliver(self, output: GenerationOutput) -> None:
        self._bring([(output.request_id, output)])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        self._bring((output.request_id, output) for output in outputs)

    def fail(self, request_id: str, error: PlatformError) -> None:
        self._bring([(request_id, error)])

    def fail_all(self, error: PlatformError) -> None:
        with self._lock:
            waiting = list(self._inboxes)
        self._bring((request_id, error) for request_id in waiting)

    def _bring(self, items: Iterable[tuple[str, GenerationOutput | PlatformError]]) -> None:
        """Wake each event loop once, whatever the number of its requests."""
        of_loops = defaultdict(list)
        with self._lock:
            for request_id, item in items:
                if request_id in self._inboxes:
                    loop, inbox = self._inboxes[request_id]
                    of_loops[loop].append((inbox, item))
        for loop, brought in of_loops.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and who waited is gone with it
                loop.call_soon_threadsafe(_put, brought)


class ThreadStatus(BackgroundThreadStatus):
    """Tells at once when the engine's thread has ended, however it did."""

    def __init__(self, ended: Callable[[], None]) -> None:
        super().__init__()
        self._ended = ended

    def mark_as_stopped(self) -> None:
        super().mark_as_stopped()
        self._ended()


def _put(brought: list[tuple[Inbox, GenerationOutput | PlatformError]]) -> None:
    for inbox, item in brought:
        inbox.put_nowait(item)
