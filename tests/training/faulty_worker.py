"""A worker with a fault, which a variable names: what tests start in the place of the real one."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from gpu_assets.errors import DiskFull
from gpu_assets.training import loop
from gpu_assets.training.batches import Batch, share
from gpu_assets.training.step import Run
from gpu_assets.training.worker import work_in

MODULE = "tests.training.faulty_worker"
VARIABLE = "TEST_FAULT"
PAUSE_S = 0.1
ROWS_THAT_FIT = 2

real_step = loop.optimizer_step
lost: list[int] = []


def slow(run: Run, batches: Sequence[Batch], **options: float) -> tuple[float, float]:
    """Every step takes a while, so that a signal finds one."""
    time.sleep(PAUSE_S)
    return real_step(run, batches, **options)


def failing(run: Run, batches: Sequence[Batch], **options: float) -> tuple[float, float]:
    """The second process fails in the third step, with an error of ours; the first then waits for it in vain."""
    if run.progress.step == 2 and PartialState().process_index == 1:
        raise DiskFull("the disk of the second process is full", wanted=7)
    return real_step(run, batches, **options)


def crashing(run: Run, batches: Sequence[Batch], **options: float) -> tuple[float, float]:
    """The second process is gone in the third step."""
    if run.progress.step == 2 and PartialState().process_index == 1:
        os._exit(9)
    return real_step(run, batches, **options)


def small(run: Run, batches: Sequence[Batch], **options: float) -> tuple[float, float]:
    """The second process holds a few rows only, from the sixth step on."""
    own = share(batches, 2, 1)
    if run.progress.step >= 5 and PartialState().process_index == 1 and max(map(len, own)) > ROWS_THAT_FIT:
        raise torch.OutOfMemoryError("a device of two rows")
    return real_step(run, batches, **options)


def diverging(run: Run, batches: Sequence[Batch], **options: float) -> tuple[float, float]:
    """The loss of the seventh step is none, the first time."""
    loss, norm = real_step(run, batches, **options)
    if run.progress.step == 6 and not lost:
        lost.append(6)
        return float("nan"), norm
    return loss, norm


FAULTS = {step.__name__: step for step in (slow, failing, crashing, small, diverging)}

if __name__ == "__main__":
    loop.optimizer_step = FAULTS[os.environ[VARIABLE]]  # type: ignore[assignment]
    sys.exit(work_in(Path(sys.argv[1])))
