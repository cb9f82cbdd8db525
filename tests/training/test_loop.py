"""The loop: exactly once, killed or not; nothing comes of a run that did not end."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpu_assets.base_model.records import BaseModel
from gpu_assets.errors import ArtifactInvalid, TrainingDiverged
from gpu_assets.settings import AdamW, Optimizer
from gpu_assets.training import loop
from gpu_assets.training.loop import plan_steps, train
from gpu_assets.training.loss import SupervisedLoss
from gpu_assets.training.progress import Progress
from gpu_assets.training.records import Parent, TrainingPlan
from gpu_assets.training.resume import resume_points
from resources.artifacts import sha256_file, weights_sha256
from tests.training.conftest import PlanFactory, ended_in_step

STOPPED = {"rows": 80, "save_steps": 2}
"""Ten optimizer steps, of which `stopped` has done seven."""


class Stopped(Exception):
    """What ends a run in the middle here."""


def quiet(_: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def stop_after(plan: TrainingPlan, work: Path, steps: int) -> None:
    """Train and stop as a crash does, in the step after this many."""
    with ended_in_step(steps + 1, Stopped):
        train(plan, work, None, quiet)


@pytest.fixture
def stopped(make_plan: PlanFactory, work: Path) -> Path:
    """The work folder of a run that was stopped after it had written resume points at steps 2, 4 and 6."""
    stop_after(make_plan(**STOPPED), work, steps=7)
    assert [folder.name for folder in resume_points(work)] == ["resume-6", "resume-4"]
    return work


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_training_lowers_the_loss_and_sees_every_row(make_plan: PlanFactory, work: Path) -> None:
    outcome = train(make_plan(), work, None, quiet)
    first, last = outcome.loss_curve[0], outcome.loss_curve[-1]
    assert outcome.steps == last[0] == 15
    assert outcome.rows_seen == 120
    assert last[1] < first[1] - 1


def test_the_same_plan_gives_the_same_weights(make_plan: PlanFactory, tmp_path: Path) -> None:
    plan, hashes = make_plan(), set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        hashes.add(weights_sha256(train(plan, tmp_path / name, None, quiet).model_folder))
    assert len(hashes) == 1


@pytest.mark.parametrize("kills", [1, 3])
def test_a_run_killed_at_any_moment_ends_in_the_weights_of_an_undisturbed_run(
    make_plan: PlanFactory, tmp_path: Path, kills: int
) -> None:
    plan = make_plan(rows=240, save_steps=3, num_epochs=2)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    expected = train(plan, undisturbed, None, quiet)
    for _ in range(kills):
        _train_until_killed(plan, disturbed, random.Random(kills))
    outcome = train(plan, disturbed, None, quiet)
    assert outcome.resumed_from_step is not None
    assert outcome.rows_seen == 240
    assert weights_sha256(outcome.model_folder) == weights_sha256(expected.model_folder)
    assert outcome.loss_curve == expected.loss_curve


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl", "manifest.json"])
def test_a_resume_point_cut_short_is_said_and_the_one_before_is_gone_on_from(
    make_plan: PlanFactory, stopped: Path, file: str
) -> None:
    newest, before = resume_points(stopped)
    truncate(newest / file)
    said: list[str] = []
    plan = make_plan(**STOPPED)
    outcome = train(plan, stopped, None, said.append)
    assert said[0].startswith(f"the resume point {newest.name} cannot be used: {newest / file} is not")
    assert f"resume-{outcome.resumed_from_step}" == before.name
    assert outcome.times_seen == (1, 1)


def rewritten(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change what torch wrote, and let the manifest agree: as another version would have written it."""
    path, manifest = folder / name, folder / "manifest.json"
    state = torch.load(path, weights_only=False)
    change(state)
    torch.save(state, path)
    content = json.loads(manifest.read_text())
    content["files"][name] = sha256_file(path)
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("custom_checkpoint_0.pkl", lambda state: state.pop("rates")),
        ("custom_checkpoint_0.pkl", lambda state: state["seen"].pop()),
        ("optimizer.bin", lambda state: state["param_groups"][0]["params"].pop()),
        ("optimizer.bin", lambda state: state.clear()),
    ],
)
def test_a_resume_point_that_fails_half_way_leaves_nothing_in_the_run_that_goes_on_from_the_one_before(
    make_plan: PlanFactory, stopped: Path, tmp_path: Path, name: str, change: Callable[[Any], object]
) -> None:
    newest, before = resume_points(stopped)
    rewritten(newest, name, change)
    said: list[str] = []
    plan = make_plan(**STOPPED)
    (tmp_path / "undisturbed").mkdir()
    expected = train(plan, tmp_path / "undisturbed", None, quiet)
    outcome = train(plan, stopped, None, said.append)
    assert said[0].startswith(f"the resume point {newest.name} cannot be used: ")
    assert said[0].endswith("; looking for the one before")
    assert f"resume-{outcome.resumed_from_step}" == before.name
    assert weights_sha256(outcome.model_folder) == weights_sha256(expected.model_folder)


def test_where_no_resume_point_can_be_loaded_training_begins_at_the_start(
    make_plan: PlanFactory, stopped: Path, tmp_path: Path
) -> None:
    for folder in resume_points(stopped):
        rewritten(folder, "custom_checkpoint_0.pkl", lambda state: state.pop("rates"))
    plan = make_plan(**STOPPED)
    (tmp_path / "undisturbed").mkdir()
    expected = train(plan, tmp_path / "undisturbed", None, quiet)
    outcome = train(plan, stopped, None, quiet)
    assert (outcome.resumed_from_step, outcome.times_seen) == (None, (1, 1))
    assert weights_sha256(outcome.model_folder) == weights_sha256(expected.model_folder)


def test_where_no_resume_point_can_be_used_training_begins_at_the_start_and_ends_in_the_same_weights(
    make_plan: PlanFactory, stopped: Path, tmp_path: Path
) -> None:
    for folder in resume_points(stopped):
        (folder / "random_states_0.pkl").unlink()
    said: list[str] = []
    (tmp_path / "undisturbed").mkdir()
    outcome = train(make_plan(**STOPPED), stopped, None, said.append)
    expected = train(make_plan(**STOPPED), tmp_path / "undisturbed", None, quiet)
    assert outcome.resumed_from_step is None
    assert [sentence.split(" cannot")[0] for sentence in said] == [
        "the resume point resume-6",
        "the resume point resume-4",
        "no usable resume point is left: training begins at the start",
    ]
    assert weights_sha256(outcome.model_folder) == weights_sha256(expected.model_folder)


def test_a_kill_while_a_resume_point_is_written_leaves_the_one_before(make_plan: PlanFactory, stopped: Path) -> None:
    newest = resume_points(stopped)[0]
    half = stopped / ".resume-8.1.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    outcome = train(make_plan(**STOPPED), stopped, None, quiet)
    assert f"resume-{outcome.resumed_from_step}" == newest.name
    assert not half.exists()


def test_a_resumed_run_warms_up_as_it_began_though_the_parents_optimizer_state_came_or_went(
    make_plan: PlanFactory, stopped: Path, tmp_path: Path
) -> None:
    plan = make_plan(**(STOPPED | {"warmup_steps": 12}))
    undisturbed, disturbed, other = (tmp_path / name for name in ("undisturbed", "disturbed", "other"))
    for folder in (undisturbed, disturbed, other):
        folder.mkdir()
    expected = train(plan, undisturbed, None, quiet)
    stop_after(plan, disturbed, steps=6)
    parent_optimizer = train(make_plan(seed=1), other, None, quiet).optimizer_folder
    outcome = train(plan, disturbed, parent_optimizer, quiet)
    assert outcome.resumed_from_step is not None
    assert weights_sha256(outcome.model_folder) == weights_sha256(expected.model_folder)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_sentence_and_no_model(
    make_plan: PlanFactory, base: BaseModel, work: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(base.folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    plan = make_plan(parent=replace(Parent.of_base(base), folder=broken))
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 1 .*rows-0.*learning_rate"):
        train(plan, work, None, quiet)
    assert not (work / "model").exists()


class _OverflowingGradient(torch.autograd.Function):
    """Passes a value on and sends back infinity, as a half-precision gradient overflows."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


def test_a_gradient_that_is_not_finite_ends_the_run_though_the_loss_is(
    make_plan: PlanFactory, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = SupervisedLoss.forward
    monkeypatch.setattr(SupervisedLoss, "forward", lambda self, *args: _OverflowingGradient.apply(forward(self, *args)))
    plan = make_plan(rows=8, batch_size=8, num_epochs=1)
    with pytest.raises(TrainingDiverged, match=r"norm of the gradient is nan at step 1 |norm .* is inf at step 1 "):
        train(plan, work, None, quiet)
    assert not (work / "model").exists()


def test_gradient_accumulation_weighs_tokens_so_that_the_step_equals_one_large_batch(
    make_plan: PlanFactory, tmp_path: Path
) -> None:
    weights = []
    for name, batch, accumulation in (("large", 24, 1), ("small", 8, 3)):
        (tmp_path / name).mkdir()
        plan = make_plan(rows=24, batch_size=batch, gradient_accumulation=accumulation, num_epochs=1)
        outcome = train(plan, tmp_path / name, None, quiet)
        assert outcome.steps == 1
        weights.append(outcome.loss_curve[0][1])
    assert weights[0] == pytest.approx(weights[1], abs=1e-5)


def test_a_later_run_goes_on_with_the_optimizer_state_of_the_parent(make_plan: PlanFactory, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "fresh", "continued")]
    for folder in folders:
        folder.mkdir()
    first = train(make_plan(), folders[0], None, quiet)
    plan = make_plan(seed=1)
    fresh = train(plan, folders[1], None, quiet)
    continued = train(plan, folders[2], first.optimizer_folder, quiet)
    assert weights_sha256(fresh.model_folder) != weights_sha256(continued.model_folder)


def test_a_later_run_steps_with_its_own_settings_and_not_its_parents(make_plan: PlanFactory, tmp_path: Path) -> None:
    for name in ("first", "continued"):
        (tmp_path / name).mkdir()
    first = train(make_plan(), tmp_path / "first", None, quiet)
    plan = make_plan(seed=1, optimizer=Optimizer(adamw=AdamW(beta2=0.9, weight_decay=0.5)))
    outcome = train(plan, tmp_path / "continued", first.optimizer_folder, quiet)
    (group,) = torch.load(outcome.optimizer_folder / "optimizer.bin", weights_only=True)["param_groups"]
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.9), 0.5)


def test_a_resume_point_of_other_rows_is_refused() -> None:
    with pytest.raises(ArtifactInvalid, match="counts 3 sequences, the plan has 2"):
        Progress(2).load_state_dict(
            {"step": 1, "seen": [1, 0, 0], "losses": [1.0], "seconds": 0.0, "optimizer_steps": 0}
        )


def test_every_epoch_holds_every_row_in_another_order(make_plan: PlanFactory) -> None:
    plan = make_plan(num_epochs=2, batch_size=8)
    steps = plan_steps([10] * 120, plan.hyperparams, "padded")
    flat = [index for step in steps for batch in step for index in batch]
    assert sorted(flat[:120]) == sorted(flat[120:]) == list(range(120))
    assert flat[:120] != flat[120:]


def _train_until_killed(plan: TrainingPlan, work: Path, rng: random.Random) -> None:
    """Train in a process of its own and SIGKILL it soon after it has a new resume point."""
    before = _resume_step(work)
    process = multiprocessing.get_context("spawn").Process(target=_train_slowly, args=(plan, work))
    process.start()
    deadline = time.monotonic() + 60
    try:
        while _resume_step(work) == before:
            assert process.is_alive(), "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no resume point within a minute"
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.join(10)
    assert not (work / "model").exists()


def _train_slowly(plan: TrainingPlan, work: Path) -> None:
    """The real loop, with a pause a step so that the kill lands inside it."""
    torch.set_num_threads(1)
    step = loop.optimizer_step

    def paused(*args: object, **kwargs: object) -> float:
        time.sleep(0.05)
        return step(*args, **kwargs)  # type: ignore[arg-type]

    loop.optimizer_step = paused  # type: ignore[assignment]
    train(plan, work, None, quiet)


def _resume_step(work: Path) -> str:
    """Changes whenever a new resume point is in place."""
    return next((folder.name for folder in resume_points(work)), "")
