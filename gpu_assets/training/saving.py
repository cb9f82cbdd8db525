"""A run's state to its work folder and back. Torch code: import inside the function that needs it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from gpu_assets.training.disk import StateSize, require_free
from gpu_assets.training.resume import (
    KEPT,
    load_resume_point,
    noted_rollbacks,
    resume_points,
    save_resume_point,
)
from gpu_assets.training.step import Run

STATES_OF_ADAM = 2


@dataclass(frozen=True)
class Keeper:
    """Where a plan's resume points are, how often one is due, in steps, and what must stay free beside them."""

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
        step = run.progress.step

        def write(folder: Path) -> None:
            self.require_free(state_size(run).resume_point, f"the resume point of step {step}")
            run.accelerator.save_state(str(folder))

        save_resume_point(self.work, step, write, self.save_steps)

    def load(self, run: Run, *, scheduled_only: bool = False) -> int | None:
        """Bring the run to its newest usable resume point; its step, or None if there is none."""
        every = self.save_steps if scheduled_only else 1
        step = load_resume_point(self.work, lambda folder: run.accelerator.load_state(str(folder)), self.report, every)
        if not run.progress.rollbacks:
            run.progress.rollbacks = noted_rollbacks(self.work, run.progress.step)
        return step

    def require_room(self, run: Run) -> None:
        """Refuse a run whose resume points and outcome the disk does not hold, before it begins.

        Raises:
            DiskFull: with what is free, what is wanted and what to do.
        """
        size, left = state_size(run), (len(run.steps) - 1) // self.save_steps - run.progress.step // self.save_steps
        points = max(0, min(KEPT, left) - len(resume_points(self.work)))
        self.require_free(points * size.resume_point + size.outcome, "this training")

    def require_room_for_outcome(self, run: Run) -> None:
        """Refuse to write a trained model that the disk does not hold.

        Raises:
            DiskFull: the run's resume points stay.
        """
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
    return bool(torch.stack([parameter.isfinite().all() for parameter in run.loss.parameters()]).all())


def _size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
