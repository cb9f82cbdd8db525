"""A training run: what is trained already is left, all else becomes one checkpoint."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gpu_assets.base_model.records import BaseModel
from gpu_assets.errors import DatasetInvalid, SettingsError, TrainingDiverged
from gpu_assets.settings import PROJECT_ROOT, Settings
from gpu_assets.training import loop, numerics
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.records import TrainingDataset
from gpu_assets.training.run import TrainingResult, require_rows, run_training
from gpu_assets.training.work import line_held
from resources.platform import Platform
from resources.workspace import Workspace
from tests.conftest import free_ports
from tests.training.conftest import write_rows

Run = Callable[..., TrainingResult]
ROWS = 32
STEPS = 4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small steps beside other processes: more threads than cores wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[[int], TrainingDataset]:
    return lambda seed: write_rows(tmp_path / f"{seed}.parquet", ROWS, seed)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(settings: Settings, base: BaseModel, said: list[str]) -> Run:
    """Trains in batches of eight rows."""
    hyperparams = settings.hyperparams.model_copy(
        update={"batch_size": ROWS // STEPS, "warmup_steps": 1, "save_steps": 2}
    )
    platform = Platform(settings.model_copy(update={"hyperparams": hyperparams}))

    def train(*datasets: TrainingDataset, **options) -> TrainingResult:
        return run_training(platform, base, datasets, report=said.append, **options)

    return train


def snapshot(workspace: Workspace) -> dict[str, int]:
    """What lies under `checkpoints/`, and when it was written; the lock is no artifact."""
    paths = (path for path in workspace.checkpoints.rglob("*") if path.is_dir() or path.suffix != ".lock")
    return {str(path): path.stat().st_mtime_ns for path in paths if path != workspace.training}


def test_several_datasets_become_one_checkpoint_that_names_them_all(run: Run, dataset, workspace: Workspace) -> None:
    result = run(dataset(1), dataset(2))
    (checkpoint,) = list_checkpoints(workspace)
    assert result.by_dataset == {"rows-1": checkpoint, "rows-2": checkpoint}
    assert result.trained == ("rows-1", "rows-2")
    assert checkpoint.dataset_keys == ("rows-1", "rows-2")
    assert (checkpoint.step, checkpoint.manifest["rows"]) == (2 * STEPS, 2 * ROWS)


def test_the_next_run_goes_on_from_the_head_and_leaves_no_resume_point(run: Run, dataset, workspace: Workspace) -> None:
    first, second = run(dataset(1)).by_dataset["rows-1"], run(dataset(2)).by_dataset["rows-2"]
    assert second.parent_sha256 == first.weights_sha256
    assert (first.step, second.step) == (STEPS, 2 * STEPS)
    assert {path.name for path in workspace.training.iterdir()} == {"optimizers", "training.lock"}


def test_what_is_trained_already_changes_nothing_and_is_said(
    run: Run, dataset, workspace: Workspace, said: list[str]
) -> None:
    first = run(dataset(1))
    before = snapshot(workspace)
    again = run(dataset(1))
    assert again.by_dataset == first.by_dataset
    assert again.trained == ()
    assert snapshot(workspace) == before
    assert said[-1].startswith(f"rows-1 is trained already, in {first.by_dataset['rows-1'].name}")


def test_of_several_only_the_new_ones_are_trained(run: Run, dataset) -> None:
    first = run(dataset(1)).by_dataset["rows-1"]
    result = run(dataset(1), dataset(2))
    assert result.trained == ("rows-2",)
    assert result.by_dataset["rows-1"] == first
    assert result.by_dataset["rows-2"].dataset_keys == ("rows-2",)


def test_retrain_trains_again_from_the_head(run: Run, dataset, workspace: Workspace) -> None:
    first = run(dataset(1)).by_dataset["rows-1"]
    again = run(dataset(1), retrain=True)
    assert again.trained == ("rows-1",)
    assert again.by_dataset["rows-1"].parent_sha256 == first.weights_sha256
    assert [checkpoint.step for checkpoint in list_checkpoints(workspace)] == [STEPS, 2 * STEPS]


def test_a_branch_goes_on_from_the_named_weights_and_becomes_the_head(run: Run, dataset, workspace: Workspace) -> None:
    first = run(dataset(1)).by_dataset["rows-1"]
    run(dataset(2))
    branch = run(dataset(3), from_weights=first.weights_sha256).by_dataset["rows-3"]
    assert (branch.parent_sha256, branch.step) == (first.weights_sha256, 2 * STEPS)
    assert [checkpoint.sequence for checkpoint in list_checkpoints(workspace)] == [1, 2, 3]
    assert run(dataset(4)).by_dataset["rows-4"].parent_sha256 == branch.weights_sha256


def test_weights_of_no_checkpoint_are_refused_before_anything_is_written(
    run: Run, dataset, workspace: Workspace
) -> None:
    before = snapshot(workspace)
    with pytest.raises(SettingsError, match="has the weights ffffffff"):
        run(dataset(1), from_weights="f" * 64)
    assert snapshot(workspace) == before


@pytest.mark.parametrize("rows", [(), (0, 0)])
def test_nothing_to_train_on_is_refused(rows: tuple[int, ...]) -> None:
    datasets = [TrainingDataset(f"empty-{index}", Path("rows"), "sha", count) for index, count in enumerate(rows)]
    with pytest.raises(DatasetInvalid, match=r"there is nothing to train on in .* materialize validated_datasets"):
        require_rows(datasets)
    require_rows([TrainingDataset("full", Path("rows"), "sha", 1)])


def test_what_another_process_trained_while_this_one_waited_is_not_trained_again(
    run: Run, dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def held_after_the_other(*_: object) -> Iterator[None]:
        monkeypatch.setattr("gpu_assets.training.run.line_held", line_held)
        run(dataset(1))
        yield

    monkeypatch.setattr("gpu_assets.training.run.line_held", held_after_the_other)
    result = run(dataset(1), dataset(2))
    first, second = list_checkpoints(workspace)
    assert result.by_dataset == {"rows-1": first, "rows-2": second}
    assert result.trained == ("rows-2",)
    assert second.parent_sha256 == first.weights_sha256


def test_on_another_device_training_begins_at_the_start_and_says_why(
    run: Run, dataset, workspace: Workspace, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = numerics.numerics_here
    step, done = loop.optimizer_step, 0

    def stop_in_the_last(*args, **kwargs) -> tuple[float, float]:
        nonlocal done
        done += 1
        if done == STEPS:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "optimizer_step", stop_in_the_last)
        run(dataset(1))
    assert any(workspace.training.glob("*/resume-2"))
    with monkeypatch.context() as patch:
        patch.setattr(numerics, "numerics_here", lambda hyperparams: replace(here(hyperparams), layout="packed"))
        checkpoint = run(dataset(1)).by_dataset["rows-1"]
    assert checkpoint.manifest["resumed_from_step"] is None
    assert checkpoint.manifest["times_seen"] == [1, 1]
    assert sum("made with cpu, fp32, padded; this run computes with cpu, fp32, packed" in line for line in said) == 1
    assert not any(workspace.training.glob("*/resume-*"))


def test_a_plan_that_diverged_leaves_no_resume_point_to_go_on_from(
    run: Run, dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, done = loop.optimizer_step, 0

    def diverge_after_two(*args, **kwargs) -> tuple[float, float]:
        nonlocal done
        done += 1
        return step(*args, **kwargs) if done <= 2 else (float("nan"), 1.0)

    with monkeypatch.context() as patch, pytest.raises(TrainingDiverged):
        patch.setattr(loop, "optimizer_step", diverge_after_two)
        run(dataset(1))
    assert not any(workspace.training.glob("*/plan.json"))


SEVERAL = """
from gpu_assets.errors import SettingsError
from gpu_assets.settings import load_settings
from gpu_assets.training.numerics import numerics_here
try:
    numerics_here(load_settings().hyperparams)
except SettingsError as error:
    print(error, flush=True)
"""


def test_a_start_in_several_processes_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    (tmp_path / "several.py").write_text(SEVERAL)
    launch = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_ports(1)[0])]
    done = subprocess.run(
        [sys.executable, "-m", *launch, str(tmp_path / "several.py")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.count("training was started in 2 processes; one process on one device is supported") == 2
