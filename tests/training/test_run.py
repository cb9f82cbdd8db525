"""A training run: what is trained already is left, all else becomes one checkpoint."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gpu_assets.base_model.records import BaseModel
from gpu_assets.datasets.validated import ROWS_FILE, VALIDATED_FOLDER, VALIDATED_KIND
from gpu_assets.errors import DatasetInvalid, SettingsError, TrainingDiverged
from gpu_assets.settings import PROJECT_ROOT, Settings
from gpu_assets.training import loop, numerics
from gpu_assets.training import run as module
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.publish import REPLAY_FILE
from gpu_assets.training.records import Checkpoint, TrainingDataset
from gpu_assets.training.run import TrainingResult, require_rows, run_training
from gpu_assets.training.work import Unfinished, find_unfinished, line_held
from resources.artifacts import MANIFEST_FILE, write_json
from resources.deployed import write_deployed
from resources.platform import Platform
from resources.workspace import Workspace
from tests.conftest import free_ports
from tests.training.conftest import ended_in_step, write_rows

Run = Callable[..., TrainingResult]
ROWS = 32
STEPS = 4


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
    assert {path.name for path in workspace.training.iterdir()} == {"heartbeat.json", "optimizers", "training.lock"}


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


def test_what_a_process_left_that_was_killed_before_it_cleared_up_is_removed_by_the_next(
    run: Run, dataset, workspace: Workspace
) -> None:
    run(dataset(1))
    left = workspace.training / "0123456789abcdef" / "resume-2"
    left.mkdir(parents=True)
    torn = workspace.checkpoints / ".checkpoint-4-abcdef12.123.tmp"
    torn.mkdir()
    assert run(dataset(1)).trained == ()
    assert not left.parent.exists() and not torn.exists()


def test_on_another_device_training_begins_at_the_start_and_says_why(
    run: Run, dataset, workspace: Workspace, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = numerics.numerics_here
    with ended_in_step(STEPS):
        run(dataset(1))
    assert any(workspace.training.glob("*/resume-2"))
    with monkeypatch.context() as patch:
        patch.setattr(numerics, "numerics_here", lambda *settings: replace(here(*settings), layout="packed"))
        checkpoint = run(dataset(1)).by_dataset["rows-1"]
    assert checkpoint.manifest["resumed_from_step"] is None
    assert checkpoint.manifest["times_seen"] == [1, 1]
    assert sum("made with cpu, fp32, padded; this run computes with cpu, fp32, packed" in line for line in said) == 1
    assert not any(workspace.training.glob("*/resume-*"))


def test_a_run_from_the_champion_that_was_stopped_goes_on_from_its_resume_point(
    run: Run, dataset, base: BaseModel, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = run(dataset(1)).by_dataset["rows-1"].weights_sha256
    run(dataset(2))
    write_deployed(workspace, {"weights_sha256": champion})
    options = {"from_weights": champion, "asked": {"parent": "champion"}}
    step = loop.optimizer_step

    def stop_in_the_last(run_: Any, *args: Any, **kwargs: Any) -> tuple[float, float]:
        if run_.progress.step == STEPS - 1:
            raise KeyboardInterrupt
        return step(run_, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "optimizer_step", stop_in_the_last)
        run(dataset(3), **options)
    unfinished = find_unfinished(workspace, base.weights_sha256)
    assert unfinished == Unfinished(("rows-3",), {"parent": "champion"})
    checkpoint = run(dataset(3), **options).by_dataset["rows-3"]
    assert (checkpoint.parent_sha256, checkpoint.manifest["resumed_from_step"]) == (champion, 2)
    assert find_unfinished(workspace, base.weights_sha256) is None
    assert not any(workspace.training.glob("*/plan.json"))


def test_a_signal_while_a_checkpoint_is_published_ends_the_run_after_that(
    run: Run, dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = module.publish_checkpoint

    def asked_first(*arguments: Any) -> Checkpoint:
        os.kill(os.getpid(), signal.SIGINT)
        return publish(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "publish_checkpoint", asked_first)
        run(dataset(1))
    (checkpoint,) = list_checkpoints(workspace)
    again = run(dataset(1))
    assert (again.by_dataset, again.trained) == ({"rows-1": checkpoint}, ())


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
    assert done.stdout.count("training was started in 2 processes, and each would train by itself") == 2


def validated(workspace: Workspace, dataset: TrainingDataset) -> TrainingDataset:
    """The dataset as validation leaves it behind, for later runs to find."""
    folder = workspace.datasets / dataset.key / VALIDATED_FOLDER
    folder.mkdir(parents=True)
    moved = dataset.rows_path.rename(folder / ROWS_FILE)
    write_json(
        folder / MANIFEST_FILE,
        {
            "kind": VALIDATED_KIND,
            "key": dataset.key,
            "rows_sha256": dataset.rows_sha256,
            "accepted": dataset.rows,
            "rejected": 0,
            "schema": "chat_sft_v1",
            "generator": {"id": "binary_api", "version": None},
        },
    )
    return replace(dataset, rows_path=moved)


def test_a_later_run_replays_a_share_of_what_its_ancestors_were_trained_on(
    run: Run, dataset, workspace: Workspace, said: list[str]
) -> None:
    first, second, third = (validated(workspace, dataset(seed)) for seed in (1, 2, 3))
    replayed = [run(each).by_dataset[each.key].manifest["replay"] for each in (first, second, third)]
    assert replayed[0] == []
    assert [(rows["key"], rows["rows"]) for rows in replayed[1]] == [("rows-1", 3)]
    assert {rows["key"] for rows in replayed[2]} <= {"rows-1", "rows-2"}
    assert sum(rows["rows"] for rows in replayed[2]) == 3
    newest = list_checkpoints(workspace)[-1]
    assert (newest.dataset_keys, newest.manifest["rows"], newest.manifest["times_seen"]) == (("rows-3",), ROWS, [1, 1])
    named = pl.read_parquet(newest.folder / REPLAY_FILE)
    assert named["key"].to_list() == [rows["key"] for rows in replayed[2] for _ in range(rows["rows"])]
    assert set(named["row_sha256"]) <= {f"{seed}-{index}" for seed in (1, 2) for index in range(ROWS)}
    assert any("3 replayed rows of 1 earlier ones" in sentence for sentence in said)


def test_without_a_share_nothing_is_replayed(
    settings: Settings, base: BaseModel, dataset, workspace: Workspace
) -> None:
    hyperparams = settings.hyperparams.model_copy(update={"replay_share": 0.0})
    platform = Platform(settings.model_copy(update={"hyperparams": hyperparams}))
    for seed in (1, 2):
        run_training(platform, base, [validated(workspace, dataset(seed))], report=lambda _: None)
    newest = list_checkpoints(workspace)[-1]
    assert newest.manifest["replay"] == []
    assert not (newest.folder / REPLAY_FILE).exists()
