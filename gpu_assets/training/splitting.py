"""Micro-batches cut until they fit the device's memory. Torch code: import inside the function that needs it.

Each cut halves the rows of every micro-batch and so doubles how many a step accumulates: the rows of a step, and
the weight of each of its supervised tokens, stay what they are.
"""

from collections.abc import Callable, Sequence

import torch

from gpu_assets.errors import OutOfMemory
from gpu_assets.training.batches import Batch
from gpu_assets.training.step import Run

Step = Callable[[Sequence[Batch]], tuple[float, float]]


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
    """
    while True:
        batches = split(run.steps[run.progress.step], run.progress.micro_batch_splits)
        try:
            return take(batches)
        except torch.OutOfMemoryError as error:
            reason = str(error).split("\n", 1)[0]
        # Not in the handler: the error's frames hold the tensors that are to be freed.
        _make_room(run)
        _count_split(run, max(len(batch) for batch in batches), reason, report)


def _halves(batch: Batch) -> tuple[Batch, ...]:
    middle = (len(batch) + 1) // 2
    return (batch[:middle], batch[middle:]) if len(batch) > 1 else (batch,)


def _make_room(run: Run) -> None:
    run.optimizer.zero_grad()
    if run.accelerator.device.type == "cuda":
        torch.cuda.empty_cache()


def _count_split(run: Run, rows: int, reason: str, report: Callable[[str], None]) -> None:
    if rows == 1:
        raise OutOfMemory(
            f"one row does not fit the memory of {run.accelerator.device} at step {run.progress.step + 1}: {reason}. "
            "Lower hyperparams.max_length, set use_gradient_checkpointing, or take another optimizer.type; "
            "`gpu-assets plan` says what fits"
        )
    run.progress.micro_batch_splits += 1
    report(
        f"out of memory on {run.accelerator.device} at step {run.progress.step + 1} with micro-batches of up to {rows} "
        f"rows: going on with {(rows + 1) // 2} and twice the accumulation, the same rows a step ({reason})"
    )
