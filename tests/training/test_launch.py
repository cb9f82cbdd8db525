"""What goes to the processes of a training and comes back from them, without starting any."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.errors import DiskFull, OutOfMemory, SettingsError
from gpu_assets.settings import Distributed, Hyperparams
from gpu_assets.training import numerics
from gpu_assets.training.batches import share
from gpu_assets.training.job import (
    Failure,
    Job,
    read_failures,
    read_job,
    read_outcome,
    tell,
    told,
    write_failure,
    write_job,
    write_outcome,
)
from gpu_assets.training.launch import launch_arguments
from gpu_assets.training.loop import train
from gpu_assets.training.numerics import numerics_here
from gpu_assets.training.records import Numerics, ReplayedRows
from gpu_assets.training.resume import note_splits, noted_splits
from tests.training.conftest import PlanFactory

BATCHES = st.lists(st.lists(st.integers(), max_size=9).map(tuple), max_size=9)


@given(BATCHES, st.integers(1, 5))
def test_processes_share_each_row_once_in_as_many_micro_batches_each(batches, processes: int) -> None:
    shares = [share(batches, processes, rank) for rank in range(processes)]
    assert sorted(row for own in shares for batch in own for row in batch) == sorted(
        row for batch in batches for row in batch
    )
    assert len({len(own) for own in shares}) == 1
    assert len(shares[0]) <= math.ceil(len(batches) / processes) + processes - 1


@given(BATCHES)
def test_a_process_alone_has_all(batches) -> None:
    assert share(batches, 1, 0) == batches


def test_whole_micro_batches_go_round_and_what_is_left_is_cut() -> None:
    batches = [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
    assert [share(batches, 2, rank) for rank in (0, 1)] == [[(0, 1, 2), (6, 8)], [(3, 4, 5), (7,)]]


def test_accelerate_is_given_all_that_its_configuration_could_say() -> None:
    arguments = launch_arguments(Numerics("cuda", "bf16", "packed", 4, "full"), threads=2, worker=["module", "work"])
    assert " ".join(arguments) == (
        "launch --multi_gpu --num_machines 1 --num_processes 4 --mixed_precision no --dynamo_backend no "
        "--main_process_port 0 --num_cpu_threads_per_process 2 --module module work"
    )


def test_a_job_and_its_outcome_come_back_as_they_were(make_plan: PlanFactory, tmp_path: Path) -> None:
    replay = (ReplayedRows("earlier", tmp_path / "rows.parquet", "sha", ("a", "b")),)
    plan = make_plan(rows=16)
    job = Job(replace(plan, replay=replay), tmp_path, None, 3, tmp_path / "home")
    (tmp_path / "outcome.json").write_text("of an earlier start")
    write_failure(tmp_path, Failure.of(1, ValueError("of an earlier start")))
    write_job(job)
    assert read_job(tmp_path) == job
    assert read_job(tmp_path).plan.plan_id == job.plan.plan_id
    assert read_failures(tmp_path) == [] and not (tmp_path / "outcome.json").exists()
    outcome = train(plan, tmp_path, None, lambda _: None)
    write_outcome(tmp_path, outcome)
    assert read_outcome(tmp_path) == outcome


def test_an_error_comes_back_with_what_it_holds(tmp_path: Path) -> None:
    for rank, error in ((1, DiskFull("full", wanted=5)), (0, OutOfMemory("small")), (2, KeyError("row"))):
        write_failure(tmp_path, Failure.of(rank, error))
    errors = [failure.error for failure in read_failures(tmp_path)]
    assert [type(error) for error in errors] == [OutOfMemory, DiskFull, type(None)]
    assert isinstance(errors[1], DiskFull) and (str(errors[1]), errors[1].wanted) == ("full", 5)


def test_what_a_worker_tells_is_told_from_what_else_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    tell("say", "a sentence\nof two lines")
    assert told(capsys.readouterr().out) == ("say", "a sentence\nof two lines")
    for line in ("a library's warning\n", "3\n", '{"other": 1}\n', '{"pid": 1, "say": "x"}\n'):
        assert told(line) is None


def test_the_processes_belong_to_a_plans_identity(make_plan: PlanFactory) -> None:
    plan = make_plan(rows=16)
    plans = [replace(plan, numerics=replace(plan.numerics, processes=n, sharding=s)) for n, s in
             ((1, "none"), (2, "none"), (2, "full"), (3, "full"))]  # fmt: skip
    assert len({plan.plan_id for plan in plans}) == 4
    assert len({plan.recipe_id for plan in plans}) == 1
    assert [plan.numerics.shards for plan in plans] == [1, 1, 2, 3]
    assert str(plans[2].numerics) == "cpu, fp32, padded, 2 processes, sharding full"


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneGpu:
        device = numerics.torch.device("cuda")

    monkeypatch.setattr(numerics, "PartialState", OneGpu)
    monkeypatch.setattr(numerics.torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match=r"distributed.processes is 2, but torch finds 1 GPUs"):
        numerics_here(Hyperparams(), Distributed(processes=2))


def test_how_often_micro_batches_must_be_halved_is_kept(tmp_path: Path) -> None:
    assert noted_splits(tmp_path, print) == 0
    note_splits(tmp_path, 2)
    assert noted_splits(tmp_path, print) == 2
