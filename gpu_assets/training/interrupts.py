"""SIGINT and SIGTERM while training: kept until the step that runs is done and its state is saved.

The signals then go to whoever handled them before: Dagster, whose run ends as canceled, or Python. Knows nothing
of Dagster.
"""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from gpu_assets.errors import TrainingStopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_STOP_S = 1.0
"""One stop may reach a process twice: from the terminal, and from the process that started it."""


class Interrupts:
    """Within this context the first signal is only noted; a second one, later than `SAME_STOP_S`, acts at once.

    Only the main thread can handle signals: in any other, and for signals that are ignored, this does nothing.
    """

    def __init__(self, *, alone: bool = True) -> None:
        """Args: `alone` is whether no other process has to agree on the step after which training ends."""
        self._alone = alone
        self._previous: dict[int, Any] = {}
        self._noted: int | None = None
        self._noted_at = 0.0

    @property
    def requested(self) -> bool:
        """Whether training should save its state and end."""
        return self._noted is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                previous = signal.getsignal(number)
                if previous not in (signal.SIG_IGN, None):
                    self._previous[number] = previous
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._restore()
        if kind is None and self.requested and self._alone:
            self.deliver()

    def deliver(self) -> None:
        """Hand the noted signal to its handler of before.

        Raises:
            TrainingStopped: if that handler lets the process go on, or the signal was another process's; otherwise what
                it raises.
        """
        self._restore()
        if self._noted is None:
            raise TrainingStopped("another process of this training was asked to end before its plan was done")
        number, self._noted = self._noted, None
        signal.raise_signal(number)
        raise TrainingStopped(f"{signal.Signals(number).name}: training ended before its plan was done")

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._noted is None:
            self._noted, self._noted_at = number, now
        elif now - self._noted_at > SAME_STOP_S:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}
