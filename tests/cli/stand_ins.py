"""Stand-in commands for the supervisor's tests: real processes that write their pid and wait."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from gpu_assets.cli.children import ChildSpec

# Argument: the file to write the pid to. Then a program of its own, run after that.
WAITING = """
import os, pathlib, sys, time
pid_file = pathlib.Path(sys.argv[1])
part = pid_file.with_suffix(".part")
part.write_text(str(os.getpid()))
part.rename(pid_file)
"""
WAITS = "time.sleep(600)"
STUBBORN = """
import signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
"""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


class StandIns:
    """Makes commands, and ends at the test's end whatever is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, name: str, program: str = WAITS, first: str = "") -> list[str]:
        """A command that runs `first`, writes its pid, and goes on with `program`."""
        return [sys.executable, "-c", first + WAITING + program, str(self.folder / f"{name}.pid")]

    def spec(self, name: str, program: str = WAITS, *, kill_after_s: float = 5) -> ChildSpec:
        return ChildSpec(
            name, lambda: self.command(name, program), self.folder / f"{name}.log", kill_after_s=kill_after_s
        )

    def parent(self, name: str, first: str = STUBBORN) -> str:
        """A program that starts another in a session of its own and leaves it alone; that one ignores signals."""
        return f"import subprocess; subprocess.Popen({self.command(name, first=first)!r}, start_new_session=True)\n"

    def wait_for(self, name: str) -> str:
        """A program that waits until the command of that name has started."""
        return f"while not pathlib.Path({str(self.folder / name)!r} + '.pid').exists(): time.sleep(0.02)\n"

    def pid(self, name: str) -> int:
        """What the command of that name wrote, once it has."""
        path = self.folder / f"{name}.pid"
        wait_until(path.exists, f"{name} has started")
        return int(path.read_text())

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(self.pid(name))

    def forget(self, name: str) -> None:
        (self.folder / f"{name}.pid").unlink()

    def end_all(self) -> None:
        for path in self.folder.glob("*.pid"):
            try:
                psutil.Process(int(path.read_text())).kill()
            except psutil.NoSuchProcess:
                continue


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
