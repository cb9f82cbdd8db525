"""Training runs: one at a time, by priority, within a budget of rows, an unfinished one first."""

import json
from collections.abc import Callable

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.datasets.records import reopen
from gpu_assets.settings import Settings
from resources.platform import Platform
from resources.workspace import PRIORITIES, Workspace
from sensors.training import Waiting, build_training_sensor, plan_training
from tests.sensors.support import add_dataset, add_failed_run, add_open_run, add_partitions, record

# The plan

KEYS = [f"k{number:02}" for number in range(30)]


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Waiting], list[str], int]:
    order = draw(st.permutations(KEYS))
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True))
    waiting = [Waiting(key, draw(st.integers(1, 40)), draw(st.sampled_from(PRIORITIES))) for key in keys]
    return waiting, list(order), draw(st.integers(1, 200))


@given(situations())
def test_a_plan_stays_within_the_budget_or_is_one_dataset_and_takes_what_waits_first(situation) -> None:
    waiting, order, budget = situation
    run = plan_training(waiting, order, budget)
    queue = sorted(waiting, key=lambda entry: (PRIORITIES.index(entry.priority), order.index(entry.key)))
    if run is None:
        assert not waiting
        return
    chosen, rest = queue[: len(run.keys)], queue[len(run.keys) :]
    assert list(run.keys) == [entry.key for entry in chosen]
    assert run.rows == sum(entry.rows for entry in chosen)
    assert run.rows <= budget or len(run.keys) == 1
    assert not rest or run.rows + rest[0].rows > budget
    assert run.priority == chosen[0].priority


@given(situations())
def test_the_range_of_a_plan_spans_its_keys_exactly(situation) -> None:
    run = plan_training(*situation)
    if run is not None:
        places = sorted(situation[1].index(key) for key in run.keys)
        assert [situation[1].index(run.first), situation[1].index(run.last)] == [places[0], places[-1]]


@given(situations())
def test_runs_one_after_the_other_train_everything_once(situation) -> None:
    waiting, order, budget = situation
    trained: list[str] = []
    while run := plan_training([entry for entry in waiting if entry.key not in trained], order, budget):
        trained.extend(run.keys)
    assert sorted(trained) == sorted(entry.key for entry in waiting)


@given(situations(), st.data())
def test_an_unfinished_plan_goes_first_alone_and_in_its_own_order(situation, data: st.DataObject) -> None:
    waiting, order, budget = situation
    if not waiting:
        return
    unfinished = data.draw(st.lists(st.sampled_from([entry.key for entry in waiting]), unique=True, min_size=1))
    run = plan_training(waiting, order, budget, unfinished)
    assert run is not None
    assert list(run.keys) == unfinished


def test_an_unfinished_plan_of_which_a_dataset_no_longer_waits_is_given_up() -> None:
    waiting = [Waiting("a", 1, "normal"), Waiting("b", 1, "normal")]
    run = plan_training(waiting, ["a", "b", "c"], 10, unfinished=["c", "b"])
    assert run is not None and run.keys == ("a", "b")


def test_a_dataset_larger_than_the_budget_is_trained_alone() -> None:
    waiting = [Waiting("a", 500, "normal"), Waiting("b", 1, "normal")]
    run = plan_training(waiting, ["a", "b"], 100)
    assert run is not None and run.keys == ("a",)


def test_a_dataset_without_a_partition_is_not_planned() -> None:
    assert plan_training([Waiting("a", 1, "normal")], [], 10) is None


# The sensor

Tick = Callable[[], dg.RunRequest | dg.SkipReason]


@pytest.fixture
def tick(settings: Settings, workspace: Workspace, instance: dg.DagsterInstance) -> Tick:
    """One tick with a budget of 25 rows; datasets hold 10 rows."""
    hyperparams = settings.hyperparams.model_copy(update={"max_rows_per_run": 25})
    sensor = build_training_sensor(Platform(settings.model_copy(update={"hyperparams": hyperparams})), "train")
    return lambda: sensor(dg.build_sensor_context(instance=instance))  # type: ignore[return-value]


@pytest.fixture
def validated(workspace: Workspace, instance: dg.DagsterInstance):
    """Adds datasets that passed their gates, with a partition each."""

    def add(*keys: str, **changes) -> None:
        for key in keys:
            add_dataset(workspace, key, **changes)
        add_partitions(instance, *keys)
        record(instance, "validated_datasets", *keys)

    return add


def requested(result: dg.RunRequest | dg.SkipReason) -> list[str]:
    assert isinstance(result, dg.RunRequest), result
    datasets: list[str] = result.run_config["ops"]["checkpoints"]["config"]["datasets"]
    return datasets


def reason(result: dg.RunRequest | dg.SkipReason) -> str:
    assert isinstance(result, dg.SkipReason), result
    return result.skip_message or ""


def test_where_nothing_waits_the_tick_says_so(tick: Tick, instance: dg.DagsterInstance) -> None:
    assert reason(tick()) == "no validated dataset waits for training"
    add_partitions(instance, "taken-in-only")
    assert reason(tick()) == "no validated dataset waits for training"


def test_what_is_validated_is_one_request_with_its_range_and_its_datasets(tick: Tick, validated) -> None:
    validated("a", "b")
    result = tick()
    assert requested(result) == ["a", "b"]
    assert isinstance(result, dg.RunRequest)
    assert result.tags == {
        "dagster/asset_partition_range_start": "a",
        "dagster/asset_partition_range_end": "b",
        "dagster/priority": "0",
        "gpu_assets/rows": "20",
    }


def test_the_budget_leaves_the_rest_for_the_next_run(tick: Tick, validated, instance: dg.DagsterInstance) -> None:
    validated("a", "b", "c")
    assert requested(tick()) == ["a", "b"]
    record(instance, "checkpoints", "a", "b")
    assert requested(tick()) == ["c"]
    record(instance, "checkpoints", "c")
    assert reason(tick()) == "no validated dataset waits for training"


def test_high_priority_is_trained_first_and_gives_the_run_its_priority(tick: Tick, validated) -> None:
    validated("a")
    validated("b", priority="low")
    validated("c", priority="high")
    result = tick()
    assert requested(result) == ["c", "a"]
    assert isinstance(result, dg.RunRequest)
    assert result.tags["dagster/priority"] == "10"
    assert result.tags["dagster/asset_partition_range_start"] == "a"
    assert result.tags["dagster/asset_partition_range_end"] == "c"


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_while_a_training_run_is_open_nothing_is_requested(tick: Tick, validated, instance, status) -> None:
    validated("a", "b")
    add_open_run(instance, "train", "a", status=status)
    assert reason(tick()) == "a training run is queued or running; it takes no more datasets once planned"


def test_files_of_an_open_taking_in_run_wait_so_that_they_are_trained_together(tick: Tick, validated, instance) -> None:
    validated("a", "b", "c")
    add_open_run(instance, "take_in", "b", "c")
    assert requested(tick()) == ["a"]


def test_three_failed_runs_set_a_dataset_aside_until_it_is_opened_again(
    tick: Tick, validated, instance, workspace: Workspace
) -> None:
    validated("a", "b")
    for failures in range(3):
        assert requested(tick()) == ["a", "b"], failures
        add_failed_run(instance, "train", "a")
    assert requested(tick()) == ["b"]
    record(instance, "checkpoints", "b")
    assert (
        reason(tick())
        == "no validated dataset waits for training; set aside after failed runs, until `gpu-assets queue retry KEY`: a"
    )
    reopen(workspace.datasets / "a")
    assert requested(tick()) == ["a"]


def test_a_plan_with_a_resume_point_is_requested_again_though_more_urgent_files_came(
    tick: Tick, validated, workspace: Workspace
) -> None:
    validated("a", "b", "c")
    plan = {"parent": {"kind": "base_model", "weights_sha256": "base"}, "datasets": [{"key": "c"}, {"key": "a"}]}
    (workspace.training / "plan" / "resume").mkdir(parents=True)
    (workspace.training / "plan" / "plan.json").write_text(json.dumps(plan))
    validated("urgent", priority="high")
    assert requested(tick()) == ["c", "a"]


def test_a_checkpoint_that_was_wiped_is_trained_again(tick: Tick, validated, instance) -> None:
    validated("a")
    record(instance, "checkpoints", "a")
    assert reason(tick()) == "no validated dataset waits for training"
    instance.wipe_assets([dg.AssetKey("checkpoints")])
    assert requested(tick()) == ["a"]
