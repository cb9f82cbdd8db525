"""A training in several processes: started, heard, told to stop and ended from the process of the run. No torch.

run process -> keeper -> `accelerate launch` -> one worker a device. The keeper ends them all when the run process is
gone, SIGKILL included, and holds the lock of the line until they are, so that a re-run waits for that.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from gpu_assets.settings import PROJECT_ROOT
from gpu_assets.training.interrupts import Interrupts
from gpu_assets.training.job import Failure, Job, read_failures, read_outcome, told, write_job
from gpu_assets.training.records import Numerics, TrainingOutcome
from gpu_assets.training.resume import note_splits
from resources import keeper

ACCELERATE = "accelerate.commands.accelerate_cli"
WORKER = "gpu_assets.training.worker"
TOO_LARGE = "BatchesTooLarge"
LISTEN_S = 0.2
TELL_AGAIN_S = 2.0
KILL_AFTER_S = 6.0
"""What is ended by its keeper has saved what it saves, or is of no use any more."""


def launch_arguments(numerics: Numerics, threads: int, worker: list[str]) -> list[str]:
    """The arguments of `accelerate launch`: one machine, nothing left to its configuration file.

    `--multi_gpu` is what has it start several processes; on a CPU the worker takes gloo for them.

    Args:
        threads: of each process, on a CPU.
        worker: the module to run and its arguments.
    """
    return [
        "launch",
        "--multi_gpu",
        *("--num_machines", "1"),
        *("--num_processes", str(numerics.processes)),
        *("--mixed_precision", "no"),
        *("--dynamo_backend", "no"),
        *("--main_process_port", "0"),
        *("--num_cpu_threads_per_process", str(threads)),
        "--module",
        *worker,
    ]


def train_in_processes(job: Job, lock: int, threads: int, report: Callable[[str], None]) -> TrainingOutcome:
    """As `loop.train`, in as many processes as the plan says; from the main thread, signals are passed on.

    Args:
        lock: the descriptor of the line's lock.
        threads: of all processes together.

    Raises:
        RuntimeError: if a process ended with an error that is none of the project's, or was killed.
    """
    numerics = job.plan.numerics
    command = launch_arguments(numerics, max(1, threads // numerics.processes), [WORKER, str(job.work)])
    while True:
        write_job(job)
        code = _run(command, lock, report)
        failures = read_failures(job.work)
        too_large = [failure for failure in failures if failure.type == TOO_LARGE]
        if not too_large:
            break
        most = max(too_large, key=lambda failure: int(failure.facts["splits"]))
        note_splits(job.work, int(most.facts["splits"]))
        report(most.message)
    if code or failures:
        raise _error(numerics.processes, code, failures)
    return read_outcome(job.work)


def _run(command: list[str], lock: int, report: Callable[[str], None]) -> int:
    """Run `accelerate` to its end; its exit code, 128 + n for signal n.

    Raises:
        TrainingStopped: on a signal that whoever handles it lets pass.
    """
    first: int | None = None
    told_at = 0.0
    with Interrupts() as interrupts, _kept(command, lock) as process:
        assert process.stdout is not None
        for line in _lines(process.stdout):
            if line is not None:
                match told(line):
                    case ("pid", int(pid)):
                        first = pid
                    case ("say", sentence):
                        report(str(sentence))
                    case _:
                        print(line, end="", flush=True)
            if interrupts.requested and first is not None and time.monotonic() - told_at > TELL_AGAIN_S:
                told_at = time.monotonic()
                with suppress(ProcessLookupError):
                    os.kill(first, signal.SIGTERM)
        return process.wait()


@contextmanager
def _kept(command: list[str], lock: int) -> Iterator["subprocess.Popen[str]"]:
    """`accelerate` under a keeper, which ends it and all its processes at the end of this context."""
    keep = [sys.executable, "-m", keeper.__name__, str(KILL_AFTER_S)]
    process = subprocess.Popen(
        [*keep, sys.executable, "-m", ACCELERATE, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT_ROOT,
        process_group=0,
        pass_fds=[lock],
    )
    try:
        yield process
    finally:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _lines(stream: IO[str]) -> Iterator[str | None]:
    """The lines of a stream as they come, and None whenever there is none for `LISTEN_S`, for signals to be seen."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=LISTEN_S)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


def _error(processes: int, code: int, failures: list[Failure]) -> Exception:
    """The first that is meant for a person: what else there is may follow from it."""
    for failure in failures:
        if failure.error is not None:
            return failure.error
    seen = "; ".join(f"process {failure.rank}: {failure.type}: {failure.message}" for failure in failures)
    return RuntimeError(
        f"training in {processes} processes ended with exit code {code}: {seen or 'a process was killed'}; what they "
        "wrote is on the run's standard error. It goes on from its resume point when it is run again"
    )
