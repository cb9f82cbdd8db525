import shutil
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.datasets.queue import retry, set_priority
from gpu_assets.datasets.records import (
    DATASETS_PARTITIONS,
    dataset_keys,
    find_dataset,
    sidecar_sha256,
    write_refusal,
)
from gpu_assets.settings import load_settings
from resources.platform import Platform
from resources.workspace import PRIORITIES, Workspace
from sensors.inbox import Candidate, build_inbox_sensor, plan
from sensors.runs import Attempts


def candidate(key: str, priority: str = "normal", failed: int = 0, **changes) -> Candidate:
    values = {
        "opened_at": "2026-01-01T00:00:00+00:00",
        "attempts": Attempts(failed, failed),
        "refused_at_inbox": False,
        "refused_by_gate": False,
    }
    return Candidate(key, priority, **(values | changes))  # type: ignore[arg-type]


# The plan

KEYS = st.lists(st.integers(0, 400).map(lambda number: f"k{number:03}"), unique=True, max_size=300)


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Candidate], list[str]]:
    keys = draw(KEYS)
    known = draw(st.lists(st.sampled_from(keys), unique=True) if keys else st.just([]))
    absent = draw(st.sets(st.sampled_from(keys)) if keys else st.just(set()))
    candidates = [
        candidate(
            key,
            draw(st.sampled_from(PRIORITIES)),
            draw(st.sampled_from((0, 0, 0, 1, 2, 3, 4))),
            refused_by_gate=draw(st.integers(0, 9)) == 0,
        )
        for key in keys
        if key not in absent
    ]
    return candidates, known


@given(situations())
def test_segments_cover_exactly_what_is_to_be_run_in_unbroken_ranges(situation) -> None:
    candidates, partitions = situation
    by_key = {entry.key: entry for entry in candidates}

    planned = plan(candidates, partitions, max_retries=10**6)

    order = [*partitions, *planned.new_partitions]
    covered = [key for segment in planned.segments for key in segment.keys]
    assert sorted(covered) == sorted(key for key, entry in by_key.items() if not entry.is_set_aside)
    assert sorted([*covered, *planned.set_aside]) == sorted(by_key)
    assert len(set(order)) == len(order)
    assert set(by_key) <= set(order)
    for segment in planned.segments:
        start = order.index(segment.keys[0])
        assert tuple(order[start : start + len(segment.keys)]) == segment.keys
        assert {by_key[key].priority for key in segment.keys} == {segment.priority}
        assert {by_key[key].attempts.failed for key in segment.keys} == {segment.failed}
        assert len(segment.keys) <= (100, 10, 1)[segment.failed]


@given(situations())
def test_no_two_segments_could_be_one_and_urgent_ones_come_first(situation) -> None:
    candidates, partitions = situation
    by_key = {entry.key: entry for entry in candidates}

    planned = plan(candidates, partitions, max_retries=10**6)

    order = [*partitions, *planned.new_partitions]
    kinds = [
        (by_key[key].priority, by_key[key].attempts.failed) if key in by_key and not by_key[key].is_set_aside else None
        for key in order
    ]
    stretches = [(kind, len(list(group))) for kind, group in groupby(kinds)]
    fewest = sum(-(-length // (100, 10, 1)[kind[1]]) for kind, length in stretches if kind is not None)
    assert len(planned.segments) == fewest
    ranks = [(segment.failed > 0, PRIORITIES.index(segment.priority)) for segment in planned.segments]
    assert ranks == sorted(ranks)


@given(situations(), st.integers(0, 12))
def test_what_failed_before_is_started_only_where_there_is_room_and_new_files_always(situation, open_runs: int) -> None:
    candidates, partitions = situation
    all_segments = plan(candidates, partitions, max_retries=10**6).segments

    started = plan(candidates, partitions, open_runs).segments

    fresh = [segment for segment in all_segments if not segment.failed]
    retries = len(started) - len(fresh)
    assert started == all_segments[: len(started)]
    assert [segment for segment in started if not segment.failed] == fresh
    assert retries == min(len(all_segments) - len(fresh), max(0, 10 - open_runs - len(fresh)))


def test_a_hundred_new_files_are_one_run() -> None:
    (segment,) = plan([candidate(f"k{number:03}") for number in range(100)], ["older"]).segments

    assert len(segment.keys) == 100
    assert segment.tags() == {
        "dagster/asset_partition_range_start": "k000",
        "dagster/asset_partition_range_end": "k099",
        "dagster/priority": "0",
        "gpu_assets/datasets": "100",
    }


def test_new_partitions_are_added_by_priority_so_that_each_priority_is_one_run() -> None:
    candidates = [candidate(f"k{number}", PRIORITIES[number % 3]) for number in range(9)]

    planned = plan(candidates, [])

    assert planned.new_partitions == ("k0", "k3", "k6", "k1", "k4", "k7", "k2", "k5", "k8")
    assert [segment.tags()["dagster/priority"] for segment in planned.segments] == ["10", "0", "-10"]


def test_the_same_situation_has_the_same_run_key_and_an_ended_run_or_a_retry_another() -> None:
    def run_key(**changes) -> str:
        return plan([candidate("a", **changes)], ["a"]).segments[0].run_key

    keys = [run_key(), run_key(attempts=Attempts(0, 1)), run_key(failed=1), run_key(opened_at="2026-01-02")]
    assert run_key() == run_key()
    assert len({*keys}) == 3, "a failed run and one that left nothing are both one ended run"


@pytest.mark.parametrize(
    ("changes", "is_set_aside"),
    [
        ({}, False),
        ({"failed": 2}, False),
        ({"failed": 3}, True),
        ({"refused_by_gate": True}, True),
        ({"refused_at_inbox": True}, False),
        ({"refused_at_inbox": True, "failed": 1}, True),
    ],
)
def test_a_refusal_is_run_once_a_gates_never_again_and_other_failures_three_times(changes, is_set_aside: bool) -> None:
    assert candidate("a", **changes).is_set_aside == is_set_aside


# The sensor

Sensor = Callable[..., dg.SensorResult | dg.SkipReason]


@pytest.fixture
def platform(workspace: Workspace) -> Platform:
    """No file is too young."""
    return Platform(load_settings({"home": str(workspace.home), "intake.settle_s": "0"}))


@pytest.fixture
def sensor(platform: Platform, instance: dg.DagsterInstance, definitions: dg.Definitions) -> Sensor:
    """One tick, and what the daemon does with its result before the runs."""

    def tick(seconds_later: float = 0) -> dg.SensorResult | dg.SkipReason:
        built = build_inbox_sensor(platform, pause=lambda _: None, now=lambda: time.time() + seconds_later)
        result = built(dg.build_sensor_context(instance=instance, definitions=definitions))
        for request in (isinstance(result, dg.SensorResult) and result.dynamic_partitions_requests) or []:
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        return result

    return tick


@pytest.fixture
def execute(instance: dg.DagsterInstance, definitions: dg.Definitions):
    """Run what a tick asked for; whether each run succeeded."""

    def run(result: dg.SensorResult | dg.SkipReason) -> list[bool]:
        assert isinstance(result, dg.SensorResult), result
        job = definitions.resolve_job_def("take_in")
        return [
            job.execute_in_process(instance=instance, tags=request.tags, raise_on_error=False).success
            for request in result.run_requests or []
        ]

    return run


def drop(workspace: Workspace, name: str, content: str | None = None) -> Path:
    path = workspace.inbox / name
    path.write_text(content if content is not None else name)
    return path


def ranges(result: dg.SensorResult | dg.SkipReason) -> list[tuple[str, str, str]]:
    assert isinstance(result, dg.SensorResult), result
    return [
        (
            request.tags["dagster/asset_partition_range_start"],
            request.tags["dagster/asset_partition_range_end"],
            request.tags["dagster/priority"],
        )
        for request in result.run_requests or []
    ]


def reason(result: dg.SensorResult | dg.SkipReason) -> str:
    assert isinstance(result, dg.SkipReason), result
    return result.skip_message or ""


def test_an_empty_inbox_is_skipped_with_a_sentence(sensor: Sensor) -> None:
    assert reason(sensor()) == "the inbox is empty and every dataset is validated"


def test_a_hundred_files_are_a_hundred_partitions_in_one_run_and_then_nothing(
    workspace: Workspace, instance: dg.DagsterInstance, sensor: Sensor, execute
) -> None:
    for number in range(100):
        drop(workspace, f"f{number:03}.jsonl")

    result = sensor()

    keys = dataset_keys(workspace)
    assert len(keys) == 100
    assert ranges(result) == [(keys[0], keys[-1], "0")]
    assert execute(result) == [True]
    assert instance.get_materialized_partitions(dg.AssetKey("validated_datasets")) == set(keys)
    assert reason(sensor()) == "the inbox is empty and every dataset is validated"


def test_the_folders_priority_is_the_runs(workspace: Workspace, sensor: Sensor) -> None:
    for folder in PRIORITIES:
        drop(workspace, f"{folder}/{folder}.jsonl")

    assert [(start[: start.index("-")], priority) for start, _, priority in ranges(sensor())] == [
        ("high", "10"),
        ("normal", "0"),
        ("low", "-10"),
    ]


def test_the_same_tick_twice_asks_for_the_same_run(workspace: Workspace, sensor: Sensor) -> None:
    drop(workspace, "a.jsonl")

    first, second = sensor(), sensor()

    assert isinstance(first, dg.SensorResult) and isinstance(second, dg.SensorResult)
    assert [request.run_key for request in first.run_requests or []] == [
        request.run_key for request in second.run_requests or []
    ]


def test_a_tick_whose_result_was_lost_is_made_up_for(
    workspace: Workspace, platform: Platform, instance: dg.DagsterInstance, definitions: dg.Definitions, sensor: Sensor
) -> None:
    drop(workspace, "a.jsonl")
    build_inbox_sensor(platform, pause=lambda _: None)(
        dg.build_sensor_context(instance=instance, definitions=definitions)
    )
    assert instance.get_dynamic_partitions(DATASETS_PARTITIONS) == []

    assert len(ranges(sensor())) == 1
    assert instance.get_dynamic_partitions(DATASETS_PARTITIONS) == dataset_keys(workspace)


def test_a_file_that_comes_while_a_tick_has_nothing_to_do_is_taken_in_by_that_tick(
    workspace: Workspace, platform: Platform, instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            drop(workspace, "a.jsonl")

    result = build_inbox_sensor(platform, pause=pause)(
        dg.build_sensor_context(instance=instance, definitions=definitions)
    )
    assert len(ranges(result)) == 1


def test_what_is_in_an_open_run_is_not_started_again(
    workspace: Workspace, instance: dg.DagsterInstance, definitions: dg.Definitions, sensor: Sensor
) -> None:
    drop(workspace, "a.jsonl")
    result = sensor()
    assert isinstance(result, dg.SensorResult) and result.run_requests
    instance.create_run_for_job(
        definitions.resolve_job_def("take_in"), status=dg.DagsterRunStatus.STARTED, tags=result.run_requests[0].tags
    )

    assert reason(sensor()) == "1 datasets are in an open run"
    drop(workspace, "b.jsonl")
    ((start, end, _),) = ranges(sensor())
    assert start == end and start.startswith("b-")


def test_a_run_that_fails_is_tried_three_times_in_ever_smaller_runs_and_again_after_a_retry(
    workspace: Workspace, sensor: Sensor, execute, gates
) -> None:
    for number in range(12):
        drop(workspace, f"f{number:02}.jsonl")

    def break_on_poison(key: str) -> None:
        if key.startswith("f05"):
            raise MemoryError(key)

    gates.on_key = break_on_poison

    assert execute(sensor()) == [False]
    assert execute(sensor()) == [False, True]
    assert sorted(execute(sensor())) == [False] + [True] * 9
    (key,) = (key for key in dataset_keys(workspace) if key.startswith("f05"))
    assert f"1 refused or failed too often (`gpu-assets queue list` says why): {key}" in reason(sensor())

    gates.on_key = lambda key: None
    retry(workspace, key, scored=())
    assert execute(sensor()) == [True]
    assert reason(sensor()) == "the inbox is empty and every dataset is validated"


def test_a_dataset_that_a_gate_refused_waits_for_a_corrected_sidecar(
    workspace: Workspace, sensor: Sensor, execute, gates
) -> None:
    drop(workspace, "a.jsonl")

    def refuse(key: str) -> None:
        folder = find_dataset(workspace, key).folder
        write_refusal(folder, "no schema fits", {}, sidecar_sha256(folder))
        raise ValueError("no schema fits")

    gates.on_key = refuse
    assert execute(sensor()) == [False]
    (key,) = dataset_keys(workspace)
    assert key in reason(sensor())

    gates.on_key = lambda key: None
    drop(workspace, "a.jsonl.meta.json", "{}")
    assert "a.jsonl.meta.json waits for its data file" in reason(sensor())
    assert execute(sensor(seconds_later=10)) == [True]


def test_an_entry_that_the_inbox_refused_becomes_a_partition_whose_run_fails_once(
    workspace: Workspace, sensor: Sensor, execute, gates
) -> None:
    (workspace.inbox / "folder").mkdir()

    def fail_if_refused(key: str) -> None:
        refused = find_dataset(workspace, key).refused
        if refused:
            raise ValueError(refused)

    gates.on_key = fail_if_refused
    assert execute(sensor()) == [False]
    assert "folder-" in reason(sensor())


def test_a_changed_priority_counts_from_the_next_tick_on(workspace: Workspace, sensor: Sensor) -> None:
    drop(workspace, "a.jsonl")
    sensor()
    (key,) = dataset_keys(workspace)

    set_priority(workspace, key, "high", trained=())

    assert ranges(sensor()) == [(key, key, "10")]


def test_a_validation_that_was_wiped_is_made_again_though_its_run_succeeded(
    workspace: Workspace, instance: dg.DagsterInstance, sensor: Sensor, execute
) -> None:
    drop(workspace, "a.jsonl")
    first = sensor()
    execute(first)
    instance.wipe_assets([dg.AssetKey("validated_datasets")])

    second = sensor()

    assert isinstance(first, dg.SensorResult) and isinstance(second, dg.SensorResult)
    assert (second.run_requests or [])[0].run_key != (first.run_requests or [])[0].run_key


def test_one_manifest_that_cannot_be_read_does_not_hold_the_others(workspace: Workspace, sensor: Sensor) -> None:
    drop(workspace, "a.jsonl")
    sensor()
    (key,) = dataset_keys(workspace)
    (workspace.datasets / key / "manifest.json").write_text("{")
    drop(workspace, "b.jsonl")

    ((start, _, _),) = ranges(sensor())

    assert start.startswith("b-")


def test_without_a_base_model_files_are_taken_in_and_no_run_is_started(
    workspace: Workspace, platform: Platform, instance: dg.DagsterInstance, definitions: dg.Definitions, tiny_folder
) -> None:
    drop(workspace, "a.jsonl")
    settings = platform.settings.model_copy(update={"model_path": "mine"})
    built = build_inbox_sensor(Platform(settings), pause=lambda _: None)

    def tick() -> dg.SensorResult | dg.SkipReason:
        return built(dg.build_sensor_context(instance=instance, definitions=definitions))

    first = tick()
    (key,) = dataset_keys(workspace)
    assert isinstance(first, dg.SensorResult) and not first.run_requests
    assert [request.partition_keys for request in first.dynamic_partitions_requests or []] == [[key]]
    instance.add_dynamic_partitions(DATASETS_PARTITIONS, [key])
    for result in (first.skip_reason, tick()):
        assert reason(result).startswith("1 datasets wait for the base model, no run is started: model_path is 'mine'")
        assert f"{workspace.models / 'mine'} is not a folder; put the model there" in reason(result)

    shutil.copytree(tiny_folder, workspace.models / "mine")
    assert ranges(tick()) == [(key, key, "0")]
