"""Training runs: one at a time, by priority, within a budget of rows, an unfinished one first."""

import json
from collections.abc import Callable
from dataclasses import replace

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.base_model.present import base_model_folder
from gpu_assets.datasets.records import reopen
from gpu_assets.settings import Settings
from gpu_assets.training.resume import save_resume_point
from gpu_assets.training.work import Unfinished
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


@given(situations(), st.sets(st.sampled_from(KEYS)))
def test_what_fails_alone_is_found_and_all_else_is_trained_once(situation, bad: set[str]) -> None:
    waiting, order, budget = situation
    entries = {entry.key: entry for entry in waiting}
    trained: list[str] = []
    runs = 0
    while run := plan_training([entry for entry in entries.values() if entry.failed < 3], order, budget):
        runs += 1
        if bad.isdisjoint(run.keys):
            trained.extend(run.keys)
            entries = {key: entry for key, entry in entries.items() if key not in run.keys}
        else:
            size = len(run.keys)
            failed = 3 if size == 1 else 2 if size <= 10 else 1
            entries |= {key: replace(entries[key], failed=max(failed, entries[key].failed)) for key in run.keys}
    assert sorted(trained) == sorted(entry.key for entry in waiting if entry.key not in bad)
    assert set(entries) == bad & {entry.key for entry in waiting}
    assert runs <= 3 * len(KEYS)


@given(situations())
def test_a_run_holds_what_failed_equally_often_and_what_comes_first_decides(situation) -> None:
    waiting, order, budget = situation
    mixed = [replace(entry, failed=number % 3) for number, entry in enumerate(waiting)]
    run = plan_training(mixed, order, budget)
    if run is None:
        return
    failed = {entry.key: entry.failed for entry in mixed}
    first = min(mixed, key=lambda entry: (PRIORITIES.index(entry.priority), order.index(entry.key)))
    assert {failed[key] for key in run.keys} == {first.failed}
    assert run.keys[0] == first.key
    assert len(run.keys) <= (len(KEYS), 10, 1)[first.failed]


@pytest.mark.parametrize(
    ("keys", "failed", "goes_on"), [("ab", 0, True), ("ab", 1, True), ("ab", 2, False), ("a", 2, True)]
)
def test_an_unfinished_plan_is_given_up_when_its_datasets_need_runs_of_their_own(
    keys: str, failed: int, goes_on: bool
) -> None:
    waiting = [Waiting("first", 1, "high"), *(Waiting(key, 1, "normal", failed) for key in keys)]
    run = plan_training(waiting, ["first", "a", "b"], 10, Unfinished(tuple(keys)))
    assert run is not None and run.keys == (tuple(keys) if goes_on else ("first",))


@given(situations(), st.data())
def test_an_unfinished_plan_goes_first_alone_and_in_its_own_order(situation, data: st.DataObject) -> None:
    waiting, order, budget = situation
    if not waiting:
        return
    unfinished = data.draw(st.lists(st.sampled_from([entry.key for entry in waiting]), unique=True, min_size=1))
    run = plan_training(waiting, order, budget, Unfinished(tuple(unfinished), {"parent": "champion"}))
    assert run is not None
    assert list(run.keys) == unfinished
    assert run.asked == {"parent": "champion"}


def test_an_unfinished_plan_of_which_a_dataset_no_longer_waits_is_given_up() -> None:
    waiting = [Waiting("a", 1, "normal"), Waiting("b", 1, "normal")]
    run = plan_training(waiting, ["a", "b", "c"], 10, Unfinished(("c", "b"), {"hyperparams": {"seed": 1}}))
    assert run is not None and run.keys == ("a", "b")
    assert run.asked == {}


@pytest.mark.parametrize(("failed", "keys"), [(0, ("b", "a")), (2, ("new",))])
def test_what_is_trained_again_waits_for_the_unfinished_plan_alone(failed: int, keys: tuple[str, ...]) -> None:
    waiting = [Waiting("a", 1, "high", failed, again=True), Waiting("b", 1, "high", failed, again=True)]
    unfinished = Unfinished(("b", "a"), {"retrain": True})
    run = plan_training([*waiting, Waiting("new", 1, "low")], ["a", "b", "new"], 10, unfinished)
    assert run is not None and run.keys == keys
    assert run.asked == ({} if failed else {"retrain": True})


def test_a_dataset_larger_than_the_budget_is_trained_alone() -> None:
    waiting = [Waiting("a", 500, "normal"), Waiting("b", 1, "normal")]
    run = plan_training(waiting, ["a", "b"], 100)
    assert run is not None and run.keys == ("a",)


def test_a_dataset_without_a_partition_is_not_planned() -> None:
    assert plan_training([Waiting("a", 1, "normal")], [], 10) is None


# The sensor

BASE = "weights-of-the-base-model"
Tick = Callable[[], dg.RunRequest | dg.SkipReason]


def put_base_model(settings: Settings, workspace: Workspace, weights: str) -> None:
    """What a tick reads of a base model that was made."""
    folder = base_model_folder(settings, workspace)
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"kind": "base_model", "weights_sha256": weights}))


def leave_unfinished(workspace: Workspace, *keys: str, asked: dict[str, object] | None = None) -> None:
    """What a plan from the base model leaves that was stopped at a resume point."""
    plan = {
        "plan_id": "plan",
        "parent": {"kind": "base_model", "weights_sha256": BASE},
        "datasets": [{"key": key} for key in keys],
        "asked": asked or {},
    }
    work = workspace.training / "plan"
    save_resume_point(work, 4, lambda folder: (folder / "model.safetensors").write_text("half trained") and None)
    (work / "plan.json").write_text(json.dumps(plan))


@pytest.fixture
def tick(settings: Settings, workspace: Workspace, instance: dg.DagsterInstance) -> Tick:
    """One tick with a budget of 25 rows; datasets hold 10 rows."""
    put_base_model(settings, workspace, BASE)
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


def test_a_dataset_that_cannot_be_read_holds_no_other(tick: Tick, validated, workspace: Workspace) -> None:
    validated("broken", "good")
    (workspace.datasets / "broken" / "manifest.json").write_text("{")
    assert requested(tick()) == ["good"]


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
    for expected in (["a", "b"], ["a"], ["a"]):
        assert requested(tick()) == expected
        add_failed_run(instance, "train", "a")
    assert requested(tick()) == ["b"]
    record(instance, "checkpoints", "b")
    assert reason(tick()) == "no validated dataset waits for training; set aside until `gpu-assets queue retry KEY`: a"
    reopen(workspace.datasets / "a")
    assert requested(tick()) == ["a"]


def test_a_plan_with_a_resume_point_is_requested_again_though_more_urgent_files_came(
    tick: Tick, validated, workspace: Workspace
) -> None:
    validated("a", "b", "c")
    leave_unfinished(workspace, "c", "a")
    validated("urgent", priority="high")
    assert requested(tick()) == ["c", "a"]


@pytest.mark.parametrize(
    "asked",
    [{"hyperparams": {"learning_rate": 1e-4}}, {"retrain": True}, {"retrain": True, "hyperparams": {"seed": 2}}],
)
def test_a_run_that_was_started_by_hand_is_requested_again_with_its_config(
    tick: Tick, validated, workspace: Workspace, instance: dg.DagsterInstance, asked: dict[str, object]
) -> None:
    validated("a", "b")
    if "retrain" in asked:
        record(instance, "checkpoints", "a", "b", base_weights_sha256=BASE)
    leave_unfinished(workspace, "b", "a", asked=asked)
    result = tick()
    assert isinstance(result, dg.RunRequest)
    assert result.run_config == {"ops": {"checkpoints": {"config": {"datasets": ["b", "a"], **asked}}}}


def test_a_checkpoint_that_was_wiped_is_trained_again(tick: Tick, validated, instance) -> None:
    validated("a")
    record(instance, "checkpoints", "a")
    assert reason(tick()) == "no validated dataset waits for training"
    instance.wipe_assets([dg.AssetKey("checkpoints")])
    assert requested(tick()) == ["a"]


def test_a_failure_that_comes_again_makes_runs_smaller_until_only_what_fails_alone_is_set_aside(
    settings: Settings, workspace: Workspace, validated, instance: dg.DagsterInstance
) -> None:
    put_base_model(settings, workspace, BASE)
    sensor = build_training_sensor(Platform(settings), "train")
    keys = [f"k{number:02}" for number in range(24)]
    validated(*keys)
    sizes: list[int] = []
    trained: list[str] = []
    while isinstance(result := sensor(dg.build_sensor_context(instance=instance)), dg.RunRequest):
        named = requested(result)
        sizes.append(len(named) if "k13" not in named else -len(named))
        if "k13" in named:
            add_failed_run(instance, "train", named[0], named[-1], permanent=True, datasets=named)
        else:
            trained.extend(named)
            record(instance, "checkpoints", *named)
    assert sizes == [-24, 10, -10, 1, 1, 1, -1, 1, 1, 1, 1, 1, 1, 4]
    assert sorted(trained) == [key for key in keys if key != "k13"]
    assert reason(result).endswith("until `gpu-assets queue retry KEY`: k13")


def test_a_setting_that_is_wrong_is_no_datasets_fault_and_no_smaller_run_is_tried(
    tick: Tick, validated, instance: dg.DagsterInstance
) -> None:
    validated("a", "b")
    add_failed_run(instance, "train", "a", "b", permanent="SettingsError", datasets=["a", "b"])
    assert reason(tick()).endswith("until `gpu-assets queue retry KEY`: a, b")


def test_with_a_new_base_model_everything_validated_waits_again(
    tick: Tick, validated, instance: dg.DagsterInstance, settings: Settings, workspace: Workspace
) -> None:
    validated("a", "b")
    record(instance, "checkpoints", "a", "b", base_weights_sha256=BASE)
    assert reason(tick()) == "no validated dataset waits for training"
    put_base_model(settings, workspace, "another")
    assert requested(tick()) == ["a", "b"]
    record(instance, "checkpoints", "a", base_weights_sha256="another")
    assert requested(tick()) == ["b"]
    put_base_model(settings, workspace, BASE)
    assert requested(tick()) == ["a"], "the partition's newest checkpoint is in the other line"


def test_what_was_reported_as_trained_by_hand_is_trained_in_every_line(
    tick: Tick, validated, instance: dg.DagsterInstance, settings: Settings, workspace: Workspace
) -> None:
    validated("a")
    record(instance, "checkpoints", "a")
    put_base_model(settings, workspace, "another")
    assert reason(tick()) == "no validated dataset waits for training"


def test_while_the_base_model_is_not_there_nothing_is_requested_and_the_tick_says_where_it_belongs(
    settings: Settings, workspace: Workspace, validated, instance: dg.DagsterInstance
) -> None:
    validated("a")
    own = settings.model_copy(update={"model_path": "own"})
    result = build_training_sensor(Platform(own), "train")(dg.build_sensor_context(instance=instance))
    assert isinstance(result, dg.SkipReason)
    assert reason(result).startswith("1 datasets wait for training, and they for the base model: model_path is 'own'")
    assert str(workspace.models / "own") in reason(result)


def test_a_disk_that_ended_the_last_run_is_waited_for_and_sets_nothing_aside(
    tick: Tick, validated, instance: dg.DagsterInstance, workspace: Workspace
) -> None:
    validated("a")
    for wanted in (10**18, 10**18, 10**18, 1):
        run = add_open_run(instance, "train", "a", datasets=["a"])
        instance.add_run_tags(run.run_id, {"gpu_assets/wanted_bytes": str(wanted)})
        instance.report_run_failed(run)
        if wanted > 1:
            assert reason(tick()).startswith(
                f"1 datasets wait for training: the disk of {workspace.checkpoints} is full: "
            )
    assert requested(tick()) == ["a"]


def test_a_lower_floor_lets_training_go_on_that_a_full_disk_ended(
    settings: Settings, validated, instance: dg.DagsterInstance
) -> None:
    validated("a")
    run = add_open_run(instance, "train", "a", datasets=["a"])
    instance.add_run_tags(run.run_id, {"gpu_assets/wanted_bytes": "1"})
    instance.report_run_failed(run)
    for floor_gb, waits in ((10.0**9, True), (0.0, False)):
        storage = settings.storage.model_copy(update={"min_free_gb": floor_gb})
        platform = Platform(settings.model_copy(update={"storage": storage}))
        result = build_training_sensor(platform, "train")(dg.build_sensor_context(instance=instance))
        assert isinstance(result, dg.SkipReason) is waits
