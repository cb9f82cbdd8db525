"""The loop where something goes wrong: it rolls back once, cuts what does not fit, and ends when it is asked to."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_assets.errors import DiskFull, OutOfMemory, TrainingDiverged
from gpu_assets.training import disk, guards, loop
from gpu_assets.training.batches import Batch
from gpu_assets.training.loop import train
from gpu_assets.training.loss import SupervisedLoss
from gpu_assets.training.records import TrainingOutcome, TrainingPlan
from gpu_assets.training.resume import resume_points
from gpu_assets.training.splitting import split
from gpu_assets.training.step import Run
from resources.artifacts import weights_sha256
from tests.training.conftest import PlanFactory

Change = Callable[[int, int, tuple[float, float]], tuple[float, float]]
"""From a step of the run, from 1, how often it was taken before, and what it gave, to what it gives."""


class Interrupted(BaseException):
    """What a host of the training raises on a signal."""


class Crashed(Exception):
    """What ends a run at once here."""


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[], Path]:
    made = iter(range(100))

    def make() -> Path:
        path = tmp_path / f"work-{next(made)}"
        path.mkdir()
        return path

    return make


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], list[int]]:
    """Lets the loop take real steps and see what a test makes of them; the steps that were taken, in order."""

    def change(with_what: Change) -> list[int]:
        step, taken = loop.optimizer_step, []

        def changed_step(run: Run, batches: Sequence[Batch], **options: float) -> tuple[float, float]:
            number = run.progress.step + 1
            taken.append(number)
            return with_what(number, taken.count(number) - 1, step(run, batches, **options))

        monkeypatch.setattr(loop, "optimizer_step", changed_step)
        return taken

    return change


def quiet(_: str) -> None:
    """Progress that nobody reads."""


def outcome_of(plan: TrainingPlan, work: Path, said: list[str] | None = None) -> tuple[str, TrainingOutcome]:
    outcome = train(plan, work, None, quiet if said is None else said.append)
    return weights_sha256(outcome.model_folder), outcome


# Rolling back


@pytest.mark.parametrize("to_step", [4, 0])
def test_a_step_that_goes_wrong_once_takes_training_back_and_halves_the_rate(
    make_plan: PlanFactory, folder, changed, to_step: int
) -> None:
    plan = make_plan(save_steps=4 if to_step else 100)
    taken = changed(lambda step, before, seen: (float("nan"), 1.0) if step == 7 and not before else seen)
    said: list[str] = []
    _, outcome = outcome_of(plan, folder(), said)
    assert taken == [*range(1, 8), *range(to_step + 1, 16)]
    assert outcome.rollbacks == ({"step": 7, "to_step": to_step, "cause": "loss", "value": None, "rate_factor": 0.5},)
    assert f"the loss is nan at step 7: rolled back to step {to_step}, going on with 0.5 of the rate" in said
    assert outcome.times_seen == (1, 1)
    assert len(outcome.loss_curve) == 15


def test_a_rolled_back_run_learns_with_the_lower_rate_and_only_from_there_on(
    make_plan: PlanFactory, folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[tuple[int, float]] = []
    step = loop.optimizer_step

    def noted(run: Run, batches: Sequence[Batch], rate: float, max_grad_norm: float) -> tuple[float, float]:
        rates.append((run.progress.step, rate))
        loss, norm = step(run, batches, rate, max_grad_norm)
        return (float("inf"), norm) if len(rates) == 7 else (loss, norm)

    monkeypatch.setattr(loop, "optimizer_step", noted)
    train(make_plan(warmup_steps=0, decay_share=0, learning_rate=1e-3), folder(), None, quiet)
    assert rates[:7] == [(place, 1e-3) for place in range(7)]
    assert rates[7:] == [(place, 5e-4) for place in range(4, 15)]


def test_the_second_time_the_run_ends_and_says_what_to_do(make_plan: PlanFactory, folder, changed) -> None:
    changed(lambda step, _, seen: (float("nan"), 1.0) if step == 7 else seen)
    work = folder()
    with pytest.raises(
        TrainingDiverged,
        match=r"loss is nan at step 7 .*rows-0.* rolled back from step 7 to 4 .* 0\.5 of the .*max_loss_rise",
    ):
        train(make_plan(), work, None, quiet)
    assert not (work / "model").exists()


def test_a_spike_is_rolled_back_as_what_is_not_finite_is(
    make_plan: PlanFactory, folder, changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "SETTLED", 5)
    changed(lambda step, before, seen: (50.0, seen[1]) if step == 7 and not before else seen)
    _, outcome = outcome_of(make_plan(), folder())
    (rollback,) = outcome.rollbacks
    assert (rollback["cause"], rollback["value"]) == ("spike", 50.0)


def _broken_by(run: Run) -> None:
    with torch.no_grad():
        next(iter(run.loss.parameters())).view(-1)[0] = float("nan")


@pytest.mark.parametrize("breaks_in", [8, 15])
def test_weights_that_are_not_finite_are_neither_saved_nor_published(
    make_plan: PlanFactory, folder, monkeypatch: pytest.MonkeyPatch, breaks_in: int
) -> None:
    step, broken = loop.optimizer_step, []

    def breaking(run: Run, batches: Sequence[Batch], **options: float) -> tuple[float, float]:
        result = step(run, batches, **options)
        if run.progress.step + 1 == breaks_in and not broken:
            broken.append(breaks_in)
            _broken_by(run)
        return result

    monkeypatch.setattr(loop, "optimizer_step", breaking)
    _, outcome = outcome_of(make_plan(), folder())
    (rollback,) = outcome.rollbacks
    assert (rollback["step"], rollback["cause"]) == (breaks_in, "weights")


@pytest.mark.parametrize("asked_in", [6, 7, 8])
def test_where_a_signal_falls_decides_nothing_of_a_rollback(
    make_plan: PlanFactory, folder, monkeypatch: pytest.MonkeyPatch, changed, interrupted, asked_in: int
) -> None:
    """Weights break in step 6, which the next scheduled resume point, at 8, finds."""
    monkeypatch.setattr(loop, "weights_are_finite", lambda run: run.progress.step < 6 or run.progress.rollbacks)
    plan, work, said, asks = make_plan(), folder(), [], []

    def ask(step: int, before: int, seen: tuple[float, float]) -> tuple[float, float]:
        if asks and step == asked_in:
            os.kill(os.getpid(), asks.pop())
        return seen

    changed(ask)
    expected, undisturbed = outcome_of(plan, folder())
    asks.append(signal.SIGTERM)
    with pytest.raises(Interrupted):
        train(plan, work, None, said.append)
    found, outcome = outcome_of(plan, work)
    assert found == expected
    assert outcome.rollbacks == undisturbed.rollbacks
    assert (outcome.rollbacks[0]["step"], outcome.rollbacks[0]["to_step"]) == (8, 4)
    wanted = f"stopped after step {asked_in} of 15, whose weights are not finite and were not saved"
    assert any(wanted in sentence for sentence in said) is (asked_in < 8)


def _goes_wrong_where_the_rate_is_high(step: int, rate: float, seen: tuple[float, float]) -> tuple[float, float]:
    return (float("nan"), 1.0) if step == 7 and rate > 6e-4 else seen


@pytest.mark.parametrize("killed_in", range(5, 10))
@pytest.mark.parametrize("ends", ["crash", "interrupt"])
def test_a_run_ended_before_or_after_its_rollback_ends_in_the_weights_of_an_undisturbed_one(
    make_plan: PlanFactory, folder, monkeypatch: pytest.MonkeyPatch, interrupted, killed_in: int, ends: str
) -> None:
    plan = make_plan(warmup_steps=0, decay_share=0, learning_rate=1e-3)
    step, calls = loop.optimizer_step, []
    ends_at: list[int] = []

    def taken(run: Run, batches: Sequence[Batch], rate: float, max_grad_norm: float) -> tuple[float, float]:
        calls.append(run.progress.step)
        if len(calls) in ends_at:
            if ends == "crash":
                raise Crashed
            os.kill(os.getpid(), signal.SIGTERM)
        return _goes_wrong_where_the_rate_is_high(run.progress.step + 1, rate, step(run, batches, rate, max_grad_norm))

    monkeypatch.setattr(loop, "optimizer_step", taken)
    expected, undisturbed = outcome_of(plan, folder())
    calls.clear()
    ends_at.append(killed_in)
    work = folder()
    with pytest.raises((Crashed, Interrupted)):
        train(plan, work, None, quiet)
    ends_at.clear()
    found, outcome = outcome_of(plan, work)
    assert found == expected
    assert outcome.rollbacks == undisturbed.rollbacks
    assert outcome.times_seen == (1, 1)


# Signals


@pytest.fixture
def interrupted() -> Iterator[None]:
    """A host of the training that raises on SIGTERM."""

    def raise_at_once(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, raise_at_once)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_run_that_is_asked_to_end_ends_after_its_step_with_a_resume_point_and_goes_on_exactly(
    make_plan: PlanFactory, folder, changed, interrupted
) -> None:
    plan, work, said = make_plan(), folder(), []
    expected, _ = outcome_of(plan, folder())

    def ask(step: int, before: int, seen: tuple[float, float]) -> tuple[float, float]:
        if step == 6 and not before:
            os.kill(os.getpid(), signal.SIGTERM)
        return seen

    taken = changed(ask)
    with pytest.raises(Interrupted):
        train(plan, work, None, said.append)
    assert taken == [1, 2, 3, 4, 5, 6]
    assert [point.name for point in resume_points(work)] == ["resume-6", "resume-4"]
    assert said == ["asked to end: stopped after step 6 of 15, with a resume point there"]
    found, outcome = outcome_of(plan, work)
    assert outcome.resumed_from_step == 6
    assert found == expected
    assert outcome.times_seen == (1, 1)


@pytest.mark.parametrize("where", ["weights_are_finite", "save_model"])
def test_a_signal_after_the_last_step_leaves_a_resume_point_there(
    make_plan: PlanFactory, folder, monkeypatch: pytest.MonkeyPatch, interrupted, where: str
) -> None:
    plan, work, real = make_plan(save_steps=10), folder(), getattr(loop, where)
    expected, _ = outcome_of(plan, folder())

    def asked_after(*arguments: Any) -> Any:
        result = real(*arguments)
        if where == "save_model" or arguments[0].progress.step == 15:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, where, asked_after)
        train(plan, work, None, quiet)
    found, outcome = outcome_of(plan, work)
    assert outcome.resumed_from_step == 15
    assert found == expected


# Memory


def _memory_for(tokens: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A model that runs out of memory where a micro-batch has more computed positions; the sizes that were tried."""
    forward, sizes = SupervisedLoss.forward, []

    def limited(self: SupervisedLoss, ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        sizes.append(ids.numel())
        if ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return forward(self, ids, *rest)

    monkeypatch.setattr(SupervisedLoss, "forward", limited)
    return sizes


def test_what_runs_out_of_memory_is_halved_with_the_same_rows_a_step_and_the_same_loss(
    make_plan: PlanFactory, folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, said = make_plan(batch_size=16, gradient_accumulation=2), []
    _, whole = outcome_of(plan, folder())
    sizes = _memory_for(250, monkeypatch)
    _, outcome = outcome_of(plan, folder(), said)
    assert outcome.micro_batch_splits >= 1 == whole.micro_batch_splits + 1
    assert (outcome.steps, outcome.times_seen) == (whole.steps, (1, 1))
    assert [loss for _, loss in outcome.loss_curve] == pytest.approx([loss for _, loss in whole.loss_curve], abs=2e-3)
    assert outcome.loss_curve[0][1] == pytest.approx(whole.loss_curve[0][1], abs=1e-5)
    assert "with micro-batches of up to 16 rows: going on with 8 and twice the accumulation" in said[0]
    assert "Tried to allocate 2.00 GiB" in said[0] and "more" not in said[0].split("GiB")[1]
    assert max(size for size in sizes if size <= 250) > 0


def test_how_often_micro_batches_were_halved_is_kept_for_the_run_that_goes_on(
    make_plan: PlanFactory, folder, monkeypatch: pytest.MonkeyPatch, changed, interrupted
) -> None:
    plan, work = make_plan(batch_size=16), folder()
    _memory_for(250, monkeypatch)
    expected, undisturbed = outcome_of(plan, folder())

    def ask(step: int, before: int, seen: tuple[float, float]) -> tuple[float, float]:
        if step == 6 and not before:
            os.kill(os.getpid(), signal.SIGTERM)
        return seen

    changed(ask)
    with pytest.raises(Interrupted):
        train(plan, work, None, quiet)
    found, outcome = outcome_of(plan, work)
    assert outcome.micro_batch_splits == undisturbed.micro_batch_splits
    assert found == expected


def test_where_one_row_does_not_fit_the_run_ends_and_names_the_settings(
    make_plan: PlanFactory, folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _memory_for(1, monkeypatch)
    with pytest.raises(OutOfMemory, match=r"one row does not fit .* step 1: CUDA out of memory.*max_length"):
        train(make_plan(), folder(), None, quiet)


def test_optimizer_states_that_do_not_fit_are_no_matter_of_the_micro_batch(
    make_plan: PlanFactory, folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(OutOfMemory, match=r"the optimizer's states do not fit .*hyperparams\.optimizer\.type"):
        train(make_plan(), folder(), None, quiet)


def test_a_split_keeps_every_row_in_its_order() -> None:
    batches = [(1, 2, 3, 4, 5), (6,)]
    assert split(batches, 0) == batches
    assert split(batches, 1) == [(1, 2, 3), (4, 5), (6,)]
    assert split(batches, 9) == [(1,), (2,), (3,), (4,), (5,), (6,)]


# Disk


def test_a_run_that_the_disk_does_not_hold_is_refused_before_its_first_step(
    make_plan: PlanFactory, folder, changed
) -> None:
    taken = changed(lambda step, before, seen: seen)
    with pytest.raises(DiskFull, match=r"this training takes .* GB .*storage\.min_free_gb"):
        train(make_plan(), folder(), None, quiet, min_free_bytes=10**18)
    assert taken == []


def test_a_disk_that_fills_up_meanwhile_ends_the_run_and_leaves_what_it_can_go_on_from(
    make_plan: PlanFactory, folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, work = make_plan(), folder()
    usage = disk.shutil.disk_usage

    def filling(path: Path) -> object:
        found = usage(path)
        return found._replace(free=0) if any(work.glob("resume-4")) else found

    with monkeypatch.context() as patch, pytest.raises(DiskFull, match="the resume point of step 8 takes"):
        patch.setattr(disk.shutil, "disk_usage", filling)
        train(plan, work, None, quiet)
    assert [point.name for point in resume_points(work)] == ["resume-4"]
    assert not list(work.glob(".resume-*"))
    _, outcome = outcome_of(plan, work)
    assert outcome.resumed_from_step == 4
