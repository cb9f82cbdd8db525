from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from sensors.runs import OPEN, Attempts, attempts, count_open_runs, covered, failed_attempts, open_partitions

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
