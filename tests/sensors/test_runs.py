from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from sensors.runs import (
    OPEN,
    Attempts,
    attempts,
    count_open_runs,
    covered,
    failed_attempts,
    open_partitions,
    run_size,
    why_failed,
)
from tests.sensors.support import add_failed_run, add_open_run

KEYS = ["a", "b", "c", "d"]
RANGE = {"dagster/asset_partition_range_start": "b", "dagster/asset_partition_range_end": "d"}
LONG_AGO = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def instance(definitions: dg.Definitions):
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("datasets", KEYS)
        yield instance


@pytest.fixture
def add_run(instance: dg.DagsterInstance, definitions: dg.Definitions):
    def add(status: dg.DagsterRunStatus, tags: dict[str, str], job: str = "take_in") -> dg.DagsterRun:
        return instance.create_run_for_job(definitions.resolve_job_def(job), status=status, tags=tags)

    return add


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"dagster/partition": "b"}, ["b"]),
        (RANGE, ["b", "c", "d"]),
        (RANGE | {"dagster/asset_partition_range_end": "b"}, ["b"]),
        (RANGE | {"dagster/asset_partition_range_end": "gone"}, []),
        (RANGE | {"dagster/asset_partition_range_end": "a"}, []),
        ({}, []),
    ],
)
def test_tags_cover_one_partition_or_a_range_in_the_order_of_adding(tags: dict[str, str], expected: list[str]) -> None:
    assert list(covered(tags, KEYS)) == expected


@pytest.mark.parametrize(
    ("status", "is_open"),
    [
        (dg.DagsterRunStatus.NOT_STARTED, True),
        (dg.DagsterRunStatus.STARTING, True),
        (dg.DagsterRunStatus.STARTED, True),
        (dg.DagsterRunStatus.CANCELING, True),
        (dg.DagsterRunStatus.SUCCESS, False),
        (dg.DagsterRunStatus.FAILURE, False),
        (dg.DagsterRunStatus.CANCELED, False),
    ],
)
def test_partitions_of_runs_that_have_not_ended_are_open(instance, add_run, status, is_open: bool) -> None:
    add_run(status, RANGE)

    assert open_partitions(instance, ["take_in"], KEYS) == ({"b", "c", "d"} if is_open else set())
    assert open_partitions(instance, ["train"], KEYS) == set()


def test_a_queued_run_is_open() -> None:
    assert dg.DagsterRunStatus.QUEUED in OPEN


def test_more_open_runs_than_a_page_holds_are_all_seen(instance, add_run, monkeypatch) -> None:
    monkeypatch.setattr("sensors.runs.PAGE", 2)
    for key in KEYS:
        add_run(dg.DagsterRunStatus.STARTED, {"dagster/partition": key})

    assert open_partitions(instance, ["take_in"], KEYS) == set(KEYS)
    assert count_open_runs(instance, "take_in") == 4
    assert count_open_runs(instance, "train") == 0


def test_failed_runs_are_failures_and_canceled_and_successful_ones_only_ended(instance, add_run) -> None:
    add_run(dg.DagsterRunStatus.FAILURE, RANGE)
    add_run(dg.DagsterRunStatus.CANCELED, {"dagster/partition": "b"})
    add_run(dg.DagsterRunStatus.SUCCESS, {"dagster/partition": "b"})
    add_run(dg.DagsterRunStatus.STARTED, {"dagster/partition": "b"})

    since = dict.fromkeys(("a", "b", "c"), LONG_AGO)
    assert attempts(instance, "take_in", KEYS, since) == {"a": Attempts(0, 0), "b": Attempts(1, 3), "c": Attempts(1, 1)}
    assert failed_attempts(instance, "take_in", KEYS, since) == {"a": 0, "b": 1, "c": 1}


def test_only_runs_that_ended_after_the_keys_own_time_count(instance, definitions, gates) -> None:
    def fail(key: str) -> None:
        raise RuntimeError(key)

    gates.on_key = fail
    job = definitions.resolve_job_def("take_in")
    job.execute_in_process(instance=instance, tags=RANGE, raise_on_error=False)
    between = datetime.now(UTC)
    job.execute_in_process(instance=instance, partition_key="c", raise_on_error=False)

    since = {"b": LONG_AGO, "c": LONG_AGO, "d": between}
    assert failed_attempts(instance, "take_in", KEYS, since) == {"b": 1, "c": 2, "d": 0}
    assert failed_attempts(instance, "take_in", KEYS, {"c": between}) == {"c": 1}
    assert failed_attempts(instance, "take_in", KEYS, {}) == {}


def test_runs_get_smaller_with_the_failures_of_what_they_hold() -> None:
    assert [run_size(failed) for failed in range(5)] == [100, 10, 1, 1, 1]


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([(1, "")], 1),
        ([(1, "")] * 3, 3),
        ([(1, "DatasetInvalid")], 3),
        ([(4, "")], 1),
        ([(4, "")] * 5, 2),
        ([(4, "TrainingDiverged")], 2),
        ([(4, "TrainingDiverged")] * 2, 2),
        ([(4, "TrainingDiverged"), (1, "")], 3),
        ([(4, "SettingsError")], 3),
    ],
)
def test_where_runs_shrink_a_failure_of_several_counts_only_towards_a_run_of_its_own(
    instance, failures: list[tuple[int, str]], expected: int
) -> None:
    for size, error in failures:
        add_failed_run(instance, "train", KEYS[0], KEYS[size - 1], permanent=error)
    since = {"a": LONG_AGO}
    assert failed_attempts(instance, "train", KEYS, since, shrinking=True) == {"a": expected}


def test_where_runs_do_not_shrink_a_failure_that_comes_again_counts_as_all_tries(instance) -> None:
    add_failed_run(instance, "judge", "a", "d", permanent="ServiceHttpError")
    assert failed_attempts(instance, "judge", KEYS, {"a": LONG_AGO}) == {"a": 3}


def test_of_more_than_ten_keys_a_failure_that_comes_again_leads_to_runs_of_ten(instance) -> None:
    keys = [f"k{number:02}" for number in range(11)]
    instance.add_dynamic_partitions("datasets", keys)
    add_failed_run(instance, "train", keys[0], keys[-1], permanent=True)
    assert failed_attempts(instance, "train", [*KEYS, *keys], {"k00": LONG_AGO}, shrinking=True) == {"k00": 1}


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING])
def test_a_run_that_was_asked_to_end_before_it_had_started_has_not_failed_whatever_dagster_calls_it(
    instance, status: dg.DagsterRunStatus
) -> None:
    run = add_open_run(instance, "train", "a", status=status)
    instance.report_run_canceling(run)
    instance.report_run_failed(run)
    add_failed_run(instance, "train", "a")
    (found,) = attempts(instance, "train", KEYS, {"a": LONG_AGO}).values()
    assert (found.failed, found.ended) == (1, 2)


def test_the_runs_that_failed_are_named_the_newest_first_each_once(instance) -> None:
    shared = add_failed_run(instance, "train", "a", "d")
    alone = add_failed_run(instance, "train", "a", permanent=True)
    found = attempts(instance, "train", KEYS, {"a": LONG_AGO, "b": LONG_AGO}, shrinking=True)
    assert (found["a"].failed_runs, found["b"].failed_runs) == ((alone.run_id, shared.run_id), (shared.run_id,))
    assert (found["a"].failed, found["b"].failed) == (4, 1)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (dg.Failure("the loss is not finite\nat step 3"), "the loss is not finite"),
        (RuntimeError("no space\nleft"), "RuntimeError: no space"),
    ],
)
def test_why_a_run_failed_is_the_first_line_of_its_steps_error(instance, definitions, gates, error, says) -> None:
    def fail(key: str) -> None:
        raise error

    gates.on_key = fail
    job = definitions.resolve_job_def("take_in")
    result = job.execute_in_process(instance=instance, partition_key="c", raise_on_error=False)
    assert why_failed(instance, result.run_id) == says


def test_of_a_run_whose_process_was_killed_it_is_what_the_launcher_saw(instance) -> None:
    run = add_open_run(instance, "train", "a")
    instance.report_engine_event("Run execution process for it unexpectedly exited with exit code -9.", run)
    instance.report_run_failed(run)
    assert why_failed(instance, run.run_id) == "Run execution process for it unexpectedly exited with exit code -9."


def test_of_a_run_that_dagster_ended_it_is_what_dagster_says(instance) -> None:
    run = add_open_run(instance, "train", "a")
    instance.report_engine_event("Launched as a subprocess.", run)
    instance.report_run_failed(run, "Run timed out: it took over 120 seconds to start.")
    assert why_failed(instance, run.run_id) == "Run timed out: it took over 120 seconds to start."
    assert why_failed(instance, "no-such-run") is None
