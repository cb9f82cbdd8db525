import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpu_assets.training.device import device_name, matmul_peak, memory_bytes, peak_memory_bytes
from gpu_assets.training.event_files import EventFiles
from gpu_assets.training.heartbeat import Heartbeat
from gpu_assets.training.loop import train
from gpu_assets.training.metrics import Figures
from gpu_assets.training.observing import observers_of
from resources.workspace import Workspace
from tests.training.conftest import PlanFactory

CPU = torch.device("cpu")


def make_figures(step: int, loss: float = 1.0, mfu: float | None = 0.5) -> Figures:
    return Figures(step, step - 100, 50, loss, 0.5, 0.001, 1000.0, 400.0, mfu, 0.1, 10**9, 12.5)


def read_losses(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def test_event_files_hold_each_interval_at_its_step_of_the_line(tmp_path: Path) -> None:
    files = EventFiles(tmp_path)
    files.write(make_figures(101, loss=2.0))
    files.write(make_figures(102, loss=1.0))
    files.close()
    assert read_losses(tmp_path) == [(101, 2.0), (102, 1.0)]


def test_a_run_that_was_killed_and_goes_on_shows_every_step_once(tmp_path: Path) -> None:
    killed = EventFiles(tmp_path)
    for step in (101, 102, 103):
        killed.write(make_figures(step, loss=2.0))
    killed.close()
    resumed = EventFiles(tmp_path)
    for step in (102, 103, 104):
        resumed.write(make_figures(step, loss=1.0))
    resumed.close()
    assert read_losses(tmp_path) == [(101, 2.0), (102, 1.0), (103, 1.0), (104, 1.0)]


def test_a_rolled_back_run_shows_every_step_once(tmp_path: Path) -> None:
    files = EventFiles(tmp_path)
    for step in (101, 102):
        files.write(make_figures(step, loss=9.0))
    files.rewind(101)
    files.write(make_figures(101, loss=1.0))
    files.close()
    assert read_losses(tmp_path) == [(101, 1.0)]


def test_the_heartbeat_says_who_trains_what_and_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    heartbeat = Heartbeat(path, "plan-id", "tiny", ["a-1", "b-2"])
    heartbeat.write(make_figures(110))
    seen: dict[str, Any] = json.loads(path.read_text())
    assert (seen["state"], seen["plan"], seen["datasets"], seen["pid"]) == (
        "training",
        "plan-id",
        ["a-1", "b-2"],
        os.getpid(),
    )
    assert (seen["run_step"], seen["run_steps"], seen["loss"], seen["eta_s"]) == (10, 50, 1.0, 12.5)
    heartbeat.close()
    assert json.loads(path.read_text())["state"] == "ended"
    assert list(tmp_path.iterdir()) == [path]


def test_a_training_is_seen_in_event_files_heartbeat_and_outcome(
    make_plan: PlanFactory, workspace: Workspace, tmp_path: Path
) -> None:
    plan = make_plan()
    outcome = train(plan, tmp_path, None, observers=observers_of(plan, workspace, print))
    (folder,) = (workspace.tensorboard / "tiny").iterdir()
    assert folder.name == f"from-step-0-{plan.plan_id[:8]}"
    assert read_losses(folder)[-1][0] == outcome.steps == 15
    assert json.loads((workspace.training / "heartbeat.json").read_text())["run_step"] == 15
    measured = outcome.measured
    assert measured.mfu is not None and 0 < measured.mfu < 1
    assert measured.supervised_tokens_per_s < measured.tokens_per_s
    assert measured.peak_memory_bytes > 10**7
    assert [step for step, _ in outcome.gradient_norm_curve] == [step for step, _ in outcome.loss_curve]
    assert outcome.learning_rate_curve[0][1] == pytest.approx(0.001)  # half of the peak: two steps of warm-up


def test_what_the_disk_refuses_to_those_who_look_is_said_once_and_training_goes_on(
    make_plan: PlanFactory, workspace: Workspace, tmp_path: Path
) -> None:
    plan, said = make_plan(), []
    workspace.tensorboard.mkdir(parents=True, exist_ok=True)
    (workspace.tensorboard / "tiny").write_text("a file where the folder should be")
    (workspace.training / "heartbeat.json").mkdir()
    observers = observers_of(plan, workspace, said.append)
    for observer in observers:
        observer.write(make_figures(1))
    outcome = train(plan, tmp_path, None, observers=observers)
    assert outcome.steps == 15
    assert [sentence.split(" cannot be written: ")[0] for sentence in said] == [
        f"warning: {workspace.tensorboard / 'tiny' / f'from-step-0-{plan.plan_id[:8]}'}, for TensorBoard,",
        f"warning: {workspace.training / 'heartbeat.json'}",
    ]


def test_measuring_the_device_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    matmul_peak.cache_clear()
    assert matmul_peak("cpu", "fp32", 1) > 1e8
    assert torch.equal(before, torch.get_rng_state())


def test_the_device_says_its_name_and_memory() -> None:
    assert "threads" in device_name(CPU)
    assert 10**7 < peak_memory_bytes(CPU) < memory_bytes(CPU)


def test_what_is_measured_by_needs_no_torch() -> None:
    modules = ("heartbeat", "memory", "metrics", "shapes")
    code = (
        "import sys; "
        + "".join(f"import gpu_assets.training.{name}; " for name in modules)
        + "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
