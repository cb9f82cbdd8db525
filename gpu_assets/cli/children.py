"""A child of the supervisor: a command under a keeper, its log, and how often it was restarted.

A child is started and stopped here, and nothing is known here of what it does. The thread that starts
a child is of no importance: its keeper watches a pipe, which closes with the process.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gpu_assets.settings import PROJECT_ROOT
from resources import keeper

LOGS_KEPT = 5


@dataclass(frozen=True)
class ChildSpec:
    """What to run, in the repository. `command` is asked at each start: what is deployed changes meanwhile."""

    name: str
    command: Callable[[], list[str]]
    log_file: Path
    waits_for: Callable[[], str | None] = lambda: None  # None when healthy, else what is missing
    is_dead: Callable[[], str | None] = lambda: None  # None, else why a running process is of no use any more
    before_start: Callable[[], None] = lambda: None
    before_stop: Callable[[], None] = lambda: None
    after_stop: Callable[[], None] = lambda: None
    kill_after_s: float = 15.0


@dataclass
class Child:
    """One child through all its starts."""

    spec: ChildSpec
    lock_descriptor: int
    deaths: int = 0
    _keeper: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the command under a keeper, with a fresh log; the older logs are kept as .1 to .5."""
        self._close()
        self.spec.before_start()
        rotate(self.spec.log_file)
        keep = [sys.executable, "-m", keeper.__name__, str(self.spec.kill_after_s)]
        with self.spec.log_file.open("wb") as log:
            self._keeper = subprocess.Popen(
                [*keep, *self.spec.command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=PROJECT_ROOT,
                process_group=0,
                pass_fds=[self.lock_descriptor],
            )

    def ended(self) -> str | None:
        """How it ended, as part of a sentence, or None while it runs."""
        code = self._keeper.poll() if self._keeper is not None else None
        return None if code is None else describe_exit(code)

    def stop(self) -> None:
        """End the command and wait until all its descendants are gone: `kill_after_s` and a little at most."""
        runs = self._keeper is not None and self._keeper.poll() is None
        try:
            if runs:
                self.spec.before_stop()
        finally:
            self._close()
        if runs:
            self.spec.after_stop()

    def _close(self) -> None:
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            self._keeper.wait()


def describe_exit(code: int) -> str:
    """`exit code 3`, or the signal's name: a keeper reports signal n as 128 + n, a process as -n."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"exit code {code}"


def rotate(log_file: Path) -> None:
    """`x.log` becomes `x.log.1`, `x.log.1` becomes `x.log.2`; the oldest of `LOGS_KEPT` is overwritten."""
    for number in range(LOGS_KEPT, 0, -1):
        older = log_file.with_name(f"{log_file.name}.{number}")
        newer = log_file.with_name(f"{log_file.name}.{number - 1}") if number > 1 else log_file
        if newer.exists():
            newer.replace(older)
