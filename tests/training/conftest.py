"""A small training plan on real rows, and what one leaves that was stopped."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.base_model.records import BaseModel
from gpu_assets.settings import Settings
from gpu_assets.training import loop
from gpu_assets.training.numerics import numerics_here
from gpu_assets.training.records import Parent, TrainingDataset, TrainingPlan
from gpu_assets.training.resume import save_resume_point
from resources.workspace import Workspace
from serving.skills import binary


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def ended_in_step(step: int, error: type[BaseException] = KeyboardInterrupt) -> Iterator[None]:
    """Training within ends with this error in its optimizer step of this number, from 1 on."""
    take, done = loop.optimizer_step, 0

    def take_or_end(*args: Any, **kwargs: Any) -> tuple[float, float]:
        nonlocal done
        done += 1
        if done == step:
            raise error
        return take(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
        patch.setattr(loop, "optimizer_step", take_or_end)
        yield


PlanFactory = Callable[..., TrainingPlan]


def write_rows(path: Path, count: int, seed: int = 0) -> TrainingDataset:
    """A validated dataset's Parquet with generated rows."""
    rows = binary.training_rows(1, count, random.Random(seed))
    hashes = [f"{seed}-{index}" for index in range(count)]
    pl.DataFrame({"row_sha256": hashes, "messages": [row["messages"] for row in rows]}).write_parquet(path)
    return TrainingDataset(f"rows-{seed}", path, f"sha-of-{seed}-{count}", count)


def leave_resume_point(work: Path, step: int, every: int = 1) -> None:
    """A complete resume point whose state is the number of its step."""
    save_resume_point(work, step, lambda folder: (folder / "state").write_text(str(step)) and None, every)


@pytest.fixture
def base(settings: Settings, workspace: Workspace) -> BaseModel:
    return ensure_base_model(settings, workspace)


@pytest.fixture
def make_plan(settings: Settings, base: BaseModel, tmp_path: Path) -> PlanFactory:
    """A plan of 120 rows in batches of 8, fifteen optimizer steps, with what a test changes."""

    def make(*, parent: Parent | None = None, rows: int = 120, seed: int = 0, **hyperparams: object) -> TrainingPlan:
        changes = {"batch_size": 8, "warmup_steps": 2, "save_steps": 4, **hyperparams}
        dataset = write_rows(tmp_path / f"rows-{seed}.parquet", rows, seed)
        chosen = settings.hyperparams.model_copy(update=changes)
        return TrainingPlan(
            model_name="tiny",
            parent=parent or Parent.of_base(base),
            datasets=(dataset,),
            hyperparams=chosen,
            renderer=base.renderer,
            numerics=numerics_here(chosen),
        )

    return make
