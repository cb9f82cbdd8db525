"""A keeper runs one command and leaves nothing of it behind: `python -m resources.keeper SECONDS COMMAND...`.

The supervisor starts a keeper for each child and holds the other end of its standard input. When that
closes, because the supervisor stops the child or because the supervisor itself is gone (SIGKILL included),
the keeper ends the command and all its descendants: SIGINT, SIGTERM after two thirds of SECONDS, SIGKILL
after SECONDS. So an orderly stop and the supervisor's death are one path. When the command ends by itself,
what it has left running is ended the same way, and the keeper exits with the command's code.

The command gets SIGINT at its default: a shell that started the supervisor in the background had it
ignored, an ignored signal is inherited, and Dagster maps SIGTERM to whatever SIGINT does. On Linux the
keeper is the subreaper of its descendants, so those whose parent died are still its own. Knows nothing
of the rest of the project.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from types import FrameType

import psutil

KILL_EVERY_S = 0.2
CANNOT_START = 127

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def keep(command: list[str], kill_after_s: float) -> int:
    """Run the command until it and all its descendants are gone; its exit code, 128 + n for signal n."""
    stop, gone = threading.Event(), threading.Event()
    _stop_on_signals(stop)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_end_with_keeper
        )  # nothing else runs in this process yet, so preexec_fn is safe
    except OSError as error:
        print(f"{command[0]} cannot be started: {error}", file=sys.stderr)
        return CANNOT_START
    threading.Thread(target=_wait_for_end_of_input, args=(stop,), daemon=True).start()
    threading.Thread(target=_end_when_asked, args=(stop, gone, kill_after_s), daemon=True).start()
    status = _reap_all(child.pid, stop)
    gone.set()
    return status if status >= 0 else 128 - status


def _reap_all(child_pid: int, stop: threading.Event) -> int:
    """Wait until no descendant is left; the child's exit code, negative for a signal."""
    status = 0
    while True:
        try:
            pid, wait_status = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if pid == child_pid:
            status = os.waitstatus_to_exitcode(wait_status)
            stop.set()


def _end_when_asked(stop: threading.Event, gone: threading.Event, kill_after_s: float) -> None:
    stop.wait()
    _signal_descendants(signal.SIGINT)
    if not gone.wait(kill_after_s * 2 / 3):
        _signal_descendants(signal.SIGTERM)
        gone.wait(kill_after_s / 3)
    while not gone.wait(KILL_EVERY_S):  # again, since what is being killed may have started something
        _signal_descendants(signal.SIGKILL)


def _signal_descendants(number: signal.Signals) -> None:
    for process in psutil.Process().children(recursive=True):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _wait_for_end_of_input(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        continue
    stop.set()


def _stop_on_signals(stop: threading.Event) -> None:
    """Handlers, and not SIG_IGN: a command that is started gets them at their default."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handle)


def _end_with_keeper() -> None:
    """Should the keeper itself be killed, the command at least is asked to end."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[2:], float(sys.argv[1])))
