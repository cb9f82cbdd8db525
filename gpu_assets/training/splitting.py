"""Micro-batches cut until they fit the device's memory. Torch code: import inside the function that needs it.

Each cut halves the rows of every micro-batch and so doubles how many a step accumulates: the rows of a step, and
the weight of each of its supervised tokens, stay what they are. Where one of several processes runs out of memory, the
others wait for it in the middle of a step, so that all are ended and begin anew with what was noted.
"""

from collections.abc import Callable, Sequence

import torch

from gpu_assets.errors import OutOfMemory
from gpu_assets.training.batches import Batch, share
from gpu_assets.training.ranks import is_alone
from gpu_assets.training.step import Run

Step = Callable[[Sequence[Batch]], tuple[float, float]]


class BatchesTooLarge(Exception):
    """This process's share of the micro-batches does not fit; all must begin anew, with so many splits."""

    def __init__(self, message: str, *, splits: int) -> None:
        super().__init__(message)
        self.splits = splits


def split(batches: Sequence[Batch], splits: int) -> list[Batch]:
    """Every micro-batch in up to 2 ** `splits` parts, the rows in their order."""
    parts = list(batches)
    for _ in range(splits):
        parts = [half for part in parts for half in _halves(part)]
    return parts


def step_that_fits(run: Run, take: Step, report: Callable[[str], None]) -> tuple[float, float]:
    """What `take` returns for the present step's micro-batches, halved as often as the device's memory demands.

    How often is kept in the progress, for all later steps and for a run that goes on from here.

    Raises:
        OutOfMemory: if a single row does not fit.
        BatchesTooLarge: if this is one of several processes.
    """
    while True:
        batches = split(run.steps[run.progress.step], run.progress.micro_batch_splits)
        try:
            return take(batches)
        except torch.OutOfMemoryError as error:
            reason = str(error).split("\n", 1)[0]
        # Not in the handler: the error's frames hold the tensors that are to be freed.
        _make_room(run)
        sentence = _count_splits(run, batches, reason)
        if not is_alone(run.accelerator):
            raise BatchesTooLarge(sentence, splits=run.progress.micro_batch_splits)
        report(sentence)


def _halves(batch: Batch) -> tuple[Batch, ...]:
    middle = (len(batch) + 1) // 2
    return (batch[:middle], batch[middle:]) if len(batch) > 1 else (batch,)


def _make_room(run: Run) -> None:
    run.optimizer.zero_grad()
    if run.accelerator.device.type == "cuda":
        torch.cuda.empty_cache()


def _count_splits(run: Run, batches: Sequence[Batch], reason: str) -> str:
    """As many more as make this process's largest micro-batch smaller; a sentence that says so."""
    rows = fewer = _rows(run, batches)
    if rows <= 1:
        raise one_row_too_large(run, reason)
    while fewer == rows:
        batches = split(batches, 1)
        run.progress.micro_batch_splits += 1
        fewer = _rows(run, batches)
    return (
        f"out of memory on {run.accelerator.device} at step {run.progress.step + 1} with micro-batches of up to {rows} "
        f"rows: going on with {fewer} and twice the accumulation, the same rows a step ({reason})"
    )


def _rows(run: Run, batches: Sequence[Batch]) -> int:
    """Of the largest micro-batch that this process has of these."""
    accelerator = run.accelerator
    return max(len(batch) for batch in share(batches, accelerator.num_processes, accelerator.process_index))


def one_row_too_large(run: Run, reason: object) -> OutOfMemory:
    """What no smaller micro-batch can mend."""
    return OutOfMemory(
        f"one row does not fit the memory of {run.accelerator.device} at step {run.progress.step + 1}: {reason}. "
        "Lower hyperparams.max_length, set use_gradient_checkpointing, or take another optimizer.type; "
        "`gpu-assets plan` says what fits"
    )
