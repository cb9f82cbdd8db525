"""Work folders: which plans go on, which are void, and that one process trains in a home."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from gpu_assets.base_model.records import BaseModel
from gpu_assets.training.line import list_checkpoints, parent_at
from gpu_assets.training.records import Numerics, TrainingPlan
from gpu_assets.training.work import (
    Unfinished,
    discard_torn,
    discard_void,
    find_unfinished,
    line_held,
    resume_points_elsewhere,
    work_folder,
)
from resources.artifacts import write_json
from resources.deployed import write_deployed
from resources.workspace import Workspace
from tests.training.conftest import PlanFactory, leave_resume_point
from tests.values import make_checkpoint

Stop = Callable[[TrainingPlan], Path]


@pytest.fixture
def stop(workspace: Workspace) -> Stop:
    """Leaves what a plan leaves that was stopped after it wrote a resume point."""

    def leave(plan: TrainingPlan) -> Path:
        folder = work_folder(plan, workspace)
        leave_resume_point(folder, 4)
        return folder

    return leave


def unfinished(workspace: Workspace, base_weights: str) -> list[str]:
    found = find_unfinished(workspace, base_weights)
    return [] if found is None else list(found.datasets)


def elsewhere(plan: TrainingPlan) -> TrainingPlan:
    return replace(plan, numerics=Numerics("cuda", "bf16", "packed"))


def test_equal_plans_share_a_work_folder_and_others_have_their_own(
    make_plan: PlanFactory, workspace: Workspace
) -> None:
    assert work_folder(make_plan(), workspace) == work_folder(make_plan(), workspace)
    others = [make_plan(seed=1), make_plan(learning_rate=1e-4), make_plan(rows=60), elsewhere(make_plan())]
    assert len({work_folder(plan, workspace) for plan in (make_plan(), *others)}) == 5


def test_a_plan_with_a_resume_point_is_unfinished(
    make_plan: PlanFactory, stop: Stop, base: BaseModel, workspace: Workspace
) -> None:
    stop(make_plan())
    assert unfinished(workspace, base.weights_sha256) == ["rows-0"]


def test_a_plan_without_a_complete_resume_point_is_not_waited_for(
    make_plan: PlanFactory, stop: Stop, base: BaseModel, workspace: Workspace
) -> None:
    work_folder(make_plan(seed=1), workspace)
    (stop(make_plan()) / "resume-4" / "manifest.json").unlink()
    assert unfinished(workspace, base.weights_sha256) == []


def test_a_plan_from_another_parent_than_the_head_is_void(
    make_plan: PlanFactory, stop: Stop, base: BaseModel, workspace: Workspace
) -> None:
    stop(make_plan())
    make_checkpoint(workspace, 9, sequence=1, base=base.weights_sha256)
    assert unfinished(workspace, base.weights_sha256) == []
    stop(make_plan(parent=parent_at(base, list_checkpoints(workspace)), seed=1))
    assert unfinished(workspace, base.weights_sha256) == ["rows-1"]


def test_only_a_plan_in_the_line_of_the_present_base_model_is_unfinished(
    make_plan: PlanFactory, stop: Stop, base: BaseModel, workspace: Workspace
) -> None:
    stop(make_plan())
    make_checkpoint(workspace, 9, sequence=1, base="another")
    assert unfinished(workspace, "another") == []
    assert unfinished(workspace, base.weights_sha256) == ["rows-0"]


def test_a_plan_that_cannot_be_read_is_said_in_the_log_and_stops_nothing(
    make_plan: PlanFactory, stop: Stop, base: BaseModel, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    stop(make_plan())
    broken = workspace.training / "0" / "plan.json"
    broken.parent.mkdir()
    broken.write_text("{")
    assert unfinished(workspace, base.weights_sha256) == ["rows-0"]
    assert str(broken) in caplog.text


def test_what_goes_on_stays_and_what_is_void_is_removed(
    make_plan: PlanFactory, stop: Stop, base: BaseModel, workspace: Workspace
) -> None:
    """Two base models, the second with a checkpoint: void are the plans from the second itself, and a torn folder.

    What is not named as a work folder is somebody else's.
    """
    other = replace(base, weights_sha256="another")
    first_line = stop(make_plan())
    passed = stop(make_plan(parent=parent_at(other, [])))
    torn, foreign = workspace.training / ("0" * 16), workspace.training / "notes"
    foreign.mkdir()
    (torn / "resume-4").mkdir(parents=True)
    (workspace.training / "optimizers" / "kept").mkdir(parents=True)
    make_checkpoint(workspace, 9, sequence=1, base="another")
    at_head = stop(make_plan(parent=parent_at(other, list_checkpoints(workspace))))
    said: list[str] = []
    discard_void(workspace, said.append)
    assert [folder.exists() for folder in (first_line, at_head, foreign, passed, torn)] == [True] * 3 + [False] * 2
    why = "its plan is published, or no line goes on from it"
    removed = {f"removed the work folder {folder}: {why}" for folder in (passed, torn)}
    assert len(said) == 2 and set(said) == removed
    assert (workspace.training / "optimizers" / "kept").is_dir()


def test_a_plan_from_the_champion_goes_on_as_long_as_it_was_asked_for_and_the_model_is_served(
    make_plan: PlanFactory, base: BaseModel, workspace: Workspace
) -> None:
    champion = make_checkpoint(workspace, 9, sequence=1, base=base.weights_sha256)
    head = make_checkpoint(workspace, 18, sequence=2, base=base.weights_sha256)
    plan = make_plan(parent=parent_at(base, list_checkpoints(workspace), champion.weights_sha256))
    asked = {"parent": "champion", "hyperparams": {"learning_rate": 1e-4}}

    def stop_and_discard(asked: dict[str, Any]) -> Unfinished | None:
        leave_resume_point(work_folder(plan, workspace, asked), 4)
        discard_void(workspace, lambda _: None)
        found = find_unfinished(workspace, base.weights_sha256)
        assert work_folder(plan, workspace, asked).joinpath("resume-4").exists() is (found is not None)
        return found

    assert stop_and_discard(asked) is None
    write_deployed(workspace, {"weights_sha256": champion.weights_sha256})
    assert stop_and_discard(asked) == Unfinished(("rows-0",), asked)
    assert find_unfinished(workspace, "another") is None
    assert stop_and_discard({}) is None
    write_deployed(workspace, {"weights_sha256": head.weights_sha256})
    assert stop_and_discard(asked) is None


def test_a_plan_from_the_champion_that_was_published_is_void(
    make_plan: PlanFactory, base: BaseModel, workspace: Workspace
) -> None:
    champion = make_checkpoint(workspace, 9, sequence=1, base=base.weights_sha256)
    write_deployed(workspace, {"weights_sha256": champion.weights_sha256})
    plan = make_plan(parent=parent_at(base, list_checkpoints(workspace), champion.weights_sha256))
    work = work_folder(plan, workspace, {"parent": "champion"})
    leave_resume_point(work, 4)
    published = make_checkpoint(workspace, 18, sequence=2, base=base.weights_sha256).folder / "manifest.json"
    write_json(published, {**json.loads(published.read_text()), "plan_id": plan.plan_id})
    assert find_unfinished(workspace, base.weights_sha256) is None
    discard_void(workspace, lambda _: None)
    assert not work.exists()


def test_a_resume_point_of_another_device_is_named_with_what_it_was_made_with(
    make_plan: PlanFactory, stop: Stop, workspace: Workspace
) -> None:
    stop(elsewhere(make_plan()))
    (sentence,) = resume_points_elsewhere(make_plan(), workspace)
    assert "made with cuda, bf16, packed; this run computes with cpu, fp32, padded" in sentence
    assert resume_points_elsewhere(make_plan(seed=1), workspace) == []
    assert resume_points_elsewhere(elsewhere(make_plan()), workspace) == []


# One process at a time


def _hold(home: Path, entered: Connection) -> None:
    with line_held(Workspace(home), lambda _: None):
        entered.send("entered")
        signal.pause()


def test_a_second_process_waits_says_so_and_goes_on_when_the_first_is_killed(workspace: Workspace) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    first = context.Process(target=_hold, args=(workspace.home, there))
    first.start()
    waits = threading.Event()
    said: list[str] = []

    def wait(sentence: str) -> None:
        said.append(sentence)
        waits.set()

    def kill() -> None:
        if waits.wait(30) and first.pid is not None:
            os.kill(first.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    try:
        assert here.poll(60), "the first process did not start"
        killer.start()
        with line_held(workspace, wait):
            assert waits.is_set()
    finally:
        first.kill()
        first.join(10)
        killer.join(35)
    assert said == [
        f"another process trains in this home and holds {workspace.training / 'training.lock'}: "
        "waiting until it has ended"
    ]


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(workspace: Workspace) -> None:
    kept = make_checkpoint(workspace, 9, sequence=1).folder
    states = workspace.training / "optimizers"
    for folder in (workspace.checkpoints, states):
        for name in (".checkpoint-9-abcdef12.123.tmp", ".checkpoint-9-abcdef12.123.old"):
            (folder / name).mkdir(parents=True)
            (folder / name / "model.safetensors").write_bytes(b"half")
    discard_torn(workspace)
    assert {path.name for path in workspace.checkpoints.iterdir()} == {".training", kept.name}
    assert list(states.iterdir()) == []
