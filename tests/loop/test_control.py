"""Training held and let go on a whole platform, through Dagster: runs end canceled with a resume point, and go on."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import torch

from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.cli.control_runs import Control
from gpu_assets.cli.make import drop_generated
from gpu_assets.cli.services import child_environment
from gpu_assets.datasets.validated import read_validated
from gpu_assets.settings import PROJECT_ROOT
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.loop import train
from gpu_assets.training.numerics import numerics_here
from gpu_assets.training.records import Parent, TrainingDataset, TrainingPlan
from resources.artifacts import weights_sha256
from resources.platform import Platform
from tests.loop.conftest import OVERRIDES, RunningPlatform

pytestmark = pytest.mark.timeout(600)
ROWS = 2_400


@pytest.fixture
def control(running: RunningPlatform) -> Control:
    return Control(Platform(running.settings), running.instance)


def wait_in_training(running: RunningPlatform) -> dg.DagsterRun:
    """The training run, once it has a resume point."""
    running.wait("there is a resume point", lambda: any(running.workspace.training.glob("*/resume-*")))
    (run,) = running.instance.get_runs(dg.RunsFilter(job_name="train", statuses=[dg.DagsterRunStatus.STARTED]))
    return run


def last_tick(running: RunningPlatform) -> str:
    """Why the training sensor's newest tick started nothing."""
    for state in running.instance.all_instigator_state():
        if state.instigator_name == "training_sensor":
            ticks = running.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
            return (ticks[0].tick_data.skip_reason or "") if ticks else ""
    return ""


def undisturbed_weights(running: RunningPlatform, key: str, work: Path) -> str:
    """What training on the dataset from the base model gives where nobody holds it."""
    base = ensure_base_model(running.settings, running.workspace)
    validated = read_validated(running.workspace, key)
    plan = TrainingPlan(
        model_name=running.settings.model_name,
        parent=Parent.of_base(base),
        datasets=(TrainingDataset(key, validated.rows_path, validated.rows_sha256, validated.rows),),
        hyperparams=running.settings.hyperparams,
        renderer=base.renderer,
        numerics=numerics_here(running.settings.hyperparams),
    )
    work.mkdir()
    torch.set_num_threads(1)
    return weights_sha256(train(plan, work, None, lambda _: None).model_folder)


def test_a_run_that_is_stopped_as_it_starts_is_canceled_and_its_dataset_is_skipped(
    running: RunningPlatform, control: Control
) -> None:
    drop_generated(running.settings, seed=1, count=ROWS, level=1)
    running.wait("a run starts", lambda: control.status().state == "training")
    done = control.stop("wrong rows")
    (ended,) = done.runs
    assert ended.status == "CANCELED", done.sentence
    running.wait("the sensor says so", lambda: "was ended by request" in last_tick(running))
    assert control.status().state == "stopped"
    assert control.skip(list(ended.datasets), "wrong rows").found


def test_a_paused_training_is_a_canceled_run_and_a_closed_pool_and_goes_on_to_the_same_weights(
    running: RunningPlatform, control: Control, tmp_path: Path
) -> None:
    before = len(running.instance.get_runs(dg.RunsFilter(job_name="train")))
    drop_generated(running.settings, seed=2, count=ROWS, level=1)
    run = wait_in_training(running)
    done = control.pause("the room is hot")
    assert [(ended.id, ended.status) for ended in done.runs] == [(run.run_id, "CANCELED")]
    assert control.status().state == "paused"
    said = [entry.user_message for entry in running.instance.all_logs(run.run_id)]
    assert any(sentence.startswith("asked to end: stopped after step ") for sentence in said)
    assert list_checkpoints(running.workspace) == []
    running.wait("the sensor says so", lambda: "the room is hot" in last_tick(running))
    assert len(running.instance.get_runs(dg.RunsFilter(job_name="train"))) == before + 1

    assert control.resume("").found
    running.wait("the checkpoint is published", lambda: bool(list_checkpoints(running.workspace)))
    (checkpoint,) = list_checkpoints(running.workspace)
    assert checkpoint.manifest["resumed_from_step"] is not None
    assert checkpoint.manifest["times_seen"] == [1, 1]
    (key,) = checkpoint.dataset_keys
    assert done.runs[0].datasets == (key,)  # and not the one that was skipped
    assert checkpoint.weights_sha256 == undisturbed_weights(running, key, tmp_path / "undisturbed")
    running.wait("the partition is materialized", lambda: key in running.materialized("checkpoints"))
    assert control.status().state == "idle"


def test_the_command_line_shows_how_training_stands(running: RunningPlatform) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpu_assets.cli", "control", "status"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=PROJECT_ROOT,
        env={**os.environ, **child_environment(running.settings, OVERRIDES), "PYTHONPATH": str(PROJECT_ROOT)},
    )
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "idle"), done.stderr
