"""Judging runs: one a checkpoint's stretch of partitions, for what is trained and not scored."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.datasets.records import reopen
from gpu_assets.settings import load_settings
from resources.platform import Platform
from resources.workspace import Workspace
from sensors.judging import Stretch, build_judging_sensor, plan_judging, server_silence
from tests.sensors.support import add_dataset, add_failed_run, add_open_run, add_partitions, record
from tests.values import make_checkpoint

# The plan

KEYS = [f"k{number:02}" for number in range(20)]


@st.composite
def situations(draw: st.DrawFn):
    order = draw(st.permutations(KEYS))
    named = draw(st.lists(st.sampled_from(KEYS), unique=True))
    checkpoint_of = {key: draw(st.sampled_from(["one", "two", "three"])) for key in named}
    return list(order), checkpoint_of, draw(st.sets(st.sampled_from(KEYS))), draw(st.sets(st.sampled_from(KEYS)))


@given(situations())
def test_stretches_hold_exactly_what_waits_each_key_once(situation) -> None:
    order, checkpoint_of, in_open_runs, set_aside = situation
    stretches = plan_judging(order, checkpoint_of, in_open_runs, set_aside)
    covered = [key for stretch in stretches for key in stretch.keys]
    assert covered == [key for key in order if key in checkpoint_of and key not in in_open_runs | set_aside]
    assert all({checkpoint_of[key] for key in stretch.keys} == {stretch.checkpoint} for stretch in stretches)


@given(situations())
def test_stretches_are_unbroken_and_as_long_as_they_can_be(situation) -> None:
    order, checkpoint_of, in_open_runs, set_aside = situation
    stretches = plan_judging(order, checkpoint_of, in_open_runs, set_aside)
    for stretch in stretches:
        start = order.index(stretch.keys[0])
        assert tuple(order[start : start + len(stretch.keys)]) == stretch.keys
    for left, right in zip(stretches, stretches[1:], strict=False):
        touch = order.index(left.keys[-1]) + 1 == order.index(right.keys[0])
        assert not touch or left.checkpoint != right.checkpoint


def test_a_checkpoint_whose_partitions_lie_apart_has_a_stretch_for_each() -> None:
    stretches = plan_judging(["a", "b", "c"], {"a": "one", "b": "two", "c": "one"}, set(), set())
    assert stretches == [Stretch("one", ("a",)), Stretch("two", ("b",)), Stretch("one", ("c",))]


# The sensor

Tick = Callable[[], list[dg.RunRequest] | dg.SkipReason]


@pytest.fixture
def tick(platform: Platform, workspace: Workspace, instance: dg.DagsterInstance) -> Tick:
    sensor = build_judging_sensor(platform, "judge", silence=lambda _: None)
    return lambda: sensor(dg.build_sensor_context(instance=instance))  # type: ignore[return-value]


@pytest.fixture
def trained(workspace: Workspace, instance: dg.DagsterInstance):
    """Publishes a checkpoint on these datasets, whose partitions it adds, and records it."""

    def train(step: int, *keys: str) -> str:
        for key in keys:
            if not (workspace.datasets / key).exists():
                add_dataset(workspace, key)
        checkpoint = make_checkpoint(workspace, step, sequence=step, datasets=keys)
        add_partitions(instance, *keys)
        record(instance, "checkpoints", *keys)
        return checkpoint.name

    return train


def ranges(result: list[dg.RunRequest] | dg.SkipReason) -> list[tuple[str, str, str]]:
    assert isinstance(result, list), result
    return [
        (
            request.tags["dagster/asset_partition_range_start"],
            request.tags["dagster/asset_partition_range_end"],
            request.tags["gpu_assets/checkpoint"],
        )
        for request in result
    ]


def reason(result: list[dg.RunRequest] | dg.SkipReason) -> str:
    assert isinstance(result, dg.SkipReason), result
    return result.skip_message or ""


def test_where_nothing_is_trained_the_tick_says_so(tick: Tick, instance: dg.DagsterInstance) -> None:
    assert reason(tick()) == "no checkpoint waits for its score"
    add_partitions(instance, "a")
    assert reason(tick()) == "no checkpoint waits for its score"


def test_each_checkpoint_is_one_run_over_its_range_and_its_datasets(tick: Tick, trained) -> None:
    first, second = trained(5, "a", "b"), trained(9, "c")
    assert ranges(tick()) == [("a", "b", first), ("c", "c", second)]


def test_what_is_scored_is_not_judged_again_until_it_is_trained_again(tick: Tick, trained, instance) -> None:
    trained(5, "a", "b")
    record(instance, "checkpoint_scores", "a", "b")
    assert reason(tick()) == "no checkpoint waits for its score"
    again = trained(9, "b")
    assert ranges(tick()) == [("b", "b", again)]


@pytest.mark.parametrize("job", ["train", "judge"])
def test_partitions_in_an_open_run_are_left_out(tick: Tick, trained, instance, job: str) -> None:
    first, second = trained(5, "a"), trained(9, "b")
    add_open_run(instance, job, "a")
    assert ranges(tick()) == [("b", "b", second)]
    add_open_run(instance, job, "b", status=dg.DagsterRunStatus.NOT_STARTED)
    assert reason(tick()) == "no checkpoint waits for its score"
    assert first != second


def test_three_failed_runs_set_a_checkpoint_aside_until_its_dataset_is_opened_again(
    tick: Tick, trained, instance, workspace: Workspace
) -> None:
    first = trained(5, "a")
    for failures in range(3):
        assert ranges(tick()) == [("a", "a", first)], failures
        add_failed_run(instance, "judge", "a")
    assert reason(tick()) == (
        "no checkpoint waits for its score; set aside after failed runs, until `gpu-assets queue retry KEY`: a"
    )
    reopen(workspace.datasets / "a")
    assert ranges(tick()) == [("a", "a", first)]


def test_a_failure_that_another_try_cannot_mend_sets_aside_at_once(tick: Tick, trained, instance) -> None:
    trained(5, "a")
    add_failed_run(instance, "judge", "a", permanent=True)
    assert "set aside after failed runs" in reason(tick())


def test_while_the_server_is_silent_nothing_is_requested_and_the_tick_says_why(
    platform: Platform, trained, instance: dg.DagsterInstance
) -> None:
    trained(5, "a")
    sensor = build_judging_sensor(platform, "judge", silence=lambda _: "no connection; is it running?")
    result = sensor(dg.build_sensor_context(instance=instance))
    assert reason(result) == "1 checkpoints wait for their scores: no connection; is it running?"  # type: ignore[arg-type]


def test_a_server_that_is_not_running_is_silent(hosts_file: Path) -> None:
    assert "is it running?" in (server_silence(Platform(load_settings())) or "")


def test_a_checkpoint_without_a_manifest_is_not_judged(tick: Tick, workspace: Workspace, instance) -> None:
    add_dataset(workspace, "a")
    make_checkpoint(workspace, 5, sequence=1, datasets=("a",), has_manifest=False)
    add_partitions(instance, "a")
    record(instance, "checkpoints", "a")
    assert reason(tick()) == "no checkpoint waits for its score"


def test_of_two_checkpoints_on_a_dataset_the_one_that_was_published_last_is_judged(tick: Tick, trained) -> None:
    trained(10_000, "a")
    newest = trained(10_001, "a")
    assert ranges(tick()) == [("a", "a", newest)]
