"""A run's state to its work folder and back. Torch code: import inside the function that needs it."""

import logging
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.training.disk import StateSize, require_free
from gpu_assets.training.ranks import any_says, first_says
from gpu_assets.training.resume import (
    KEPT,
    discard_resume_point,
    load_resume_point,
    noted_rollbacks,
    noted_splits,
    resume_points,
    save_resume_point,
)
from gpu_assets.training.sharding import is_sharded, load_shards, own_part, save_shards
from gpu_assets.training.step import Run

STATES_OF_ADAM = 2
UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, SafetensorError, CheckpointException, ArtifactInvalid, FileNotFoundError),
    *(RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError),
)
"""How torch, safetensors and pickle say that a state is not one of this run: what is in it decides which."""


logging.getLogger("accelerate.utils.other").addFilter(lambda record: "Removed shared tensor" not in record.getMessage())
"""Tied weights are the usual case: a warning at each save would drown others."""


class ResumePointUnusable(ArtifactInvalid):
    """A resume point was as written and yet no state of this run; it is removed, and the run must be made anew."""


@dataclass(frozen=True)
class Keeper:
    """Where a plan's resume points are, how often one is due, in steps, and what must stay free beside them.

    Of several processes each saves and loads its own part; which resume point it is, and what is said, is the first's.
    """

    work: Path
    save_steps: int
    min_free_bytes: int
    report: Callable[[str], None]

    def is_due(self, step: int, total: int) -> bool:
        return step % self.save_steps == 0 and step < total

    def save(self, run: Run) -> None:
        """Write a resume point at the run's step.

        Raises:
            DiskFull: if there is no room for it; older ones stay.
        """
        step, accelerator = run.progress.step, run.accelerator

        def write(folder: Path | None) -> None:
            if folder is not None:
                self.require_free(state_size(run).resume_point, f"the resume point of step {step}")
            common = first_says(accelerator, None if folder is None else str(folder))
            assert common is not None
            accelerator.save_state(common)
            if is_sharded(run.loss):
                save_shards(run.loss, run.optimizer, Path(common))
            accelerator.wait_for_everyone()

        if accelerator.is_main_process:
            save_resume_point(self.work, step, write, self.save_steps)
        else:
            write(None)
        accelerator.wait_for_everyone()

    def load(self, run: Run, *, scheduled_only: bool = False) -> int | None:
        """Bring the run to its newest usable resume point; its step, or None if there is none.

        Raises:
            ResumePointUnusable: after part of the run was overwritten; the next call looks for the one before.
        """
        found: list[Path] = []
        accelerator, progress = run.accelerator, run.progress
        if accelerator.is_main_process:
            load_resume_point(self.work, found.append, self.report, self.save_steps if scheduled_only else 1)
        folder = first_says(accelerator, str(found[0]) if found else None)
        if folder is not None:
            self._load_from(run, Path(folder))
        if not progress.rollbacks:
            progress.rollbacks = noted_rollbacks(self.work, progress.step, self.report)
        progress.micro_batch_splits = max(progress.micro_batch_splits, noted_splits(self.work, self.report))
        accelerator.wait_for_everyone()
        return None if folder is None else progress.step

    def _load_from(self, run: Run, folder: Path) -> None:
        accelerator = run.accelerator
        why = _why_not(lambda: load_shards(run.loss, run.optimizer, folder)) if is_sharded(run.loss) else None
        if not any_says(accelerator, why is not None):
            # Last, since it brings random states back and making an optimizer's states to be filled may draw numbers.
            # By way of the host, also of several processes: a device may not hold a state beside the one being filled.
            why = _why_not(lambda: accelerator.load_state(str(folder), map_location="cpu"))
        if any_says(accelerator, why is not None):
            if accelerator.is_main_process:
                discard_resume_point(folder, why or "another process cannot load its part", self.report)
            accelerator.wait_for_everyone()
            raise ResumePointUnusable(f"{folder} is no state of this run")

    def require_room(self, run: Run) -> None:
        """Refuse a run whose resume points and outcome the disk does not hold, before it begins.

        Raises:
            DiskFull: with what is free, what is wanted and what to do.
        """
        if not run.accelerator.is_main_process:
            return
        size, left = state_size(run), (len(run.steps) - 1) // self.save_steps - run.progress.step // self.save_steps
        points = max(0, min(KEPT, left) - len(resume_points(self.work)))
        self.require_free(points * size.resume_point + size.outcome, "this training")

    def require_room_for_outcome(self, run: Run) -> None:
        """Refuse to write a trained model that the disk does not hold.

        Raises:
            DiskFull: the run's resume points stay.
        """
        if run.accelerator.is_main_process:
            self.require_free(state_size(run).outcome, "the trained model with its optimizer's states")

    def require_free(self, wanted: int, purpose: str) -> None:
        require_free(self.work, wanted, self.min_free_bytes, purpose)


def state_size(run: Run) -> StateSize:
    """What a resume point of this run holds; the states of an optimizer that has not stepped are taken as Adam's."""
    states = [value for state in run.optimizer.state.values() for value in state.values()]
    trained = sum(_size([p]) for group in run.optimizer.param_groups for p in group["params"] if p.requires_grad)
    optimizer = _size(value for value in states if isinstance(value, torch.Tensor)) or STATES_OF_ADAM * trained
    return StateSize(weights=_size(run.loss.parameters()), optimizer=optimizer)


def weights_are_finite(run: Run) -> bool:
    """Whether every weight is a number: a state that is not must not be gone on from."""
    parts = [own_part(parameter) for parameter in run.loss.parameters()]
    return not any_says(run.accelerator, not torch.stack([part.isfinite().all() for part in parts]).all())


def _why_not(load: Callable[[], None]) -> str | None:
    """Load, and say what is wrong where that cannot be; what a device fails with is no fault of what is loaded."""
    try:
        load()
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except UNREADABLE as error:
        return f"{type(error).__name__}: {error}"
    return None


def _size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
