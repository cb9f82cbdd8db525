"""Which partitions the runs of a job cover: what level-triggered sensors subtract.

A run names one partition in a tag, or the first and last of a range in the order in which the
dynamic partitions were added. Knows nothing of what a job does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import dagster as dg

from gpu_assets.datasets.records import MAX_FAILURES
from gpu_assets.training.control import CONTROL_TAG
from resources.events import PERMANENT_TAG, WANTED_BYTES_TAG
from resources.local_runs import is_left_behind

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"
PRIORITY_TAG = "dagster/priority"
PRIORITY_TAGS: dict[str, str] = {"high": "10", "normal": "0", "low": "-10"}
AD_HOC_JOB = "__ASSET_JOB"
"""Dagster's name for the job of `dagster asset materialize` and of the UI's button."""
ENDED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.SUCCESS)
OPEN = tuple(status for status in dg.DagsterRunStatus if status not in ENDED)
PAGE = 500
KEYS_PER_RUN = (100, 10, 1)
"""By the number of failures: what killed a run of many is found by making the next ones smaller."""
SETTING = "SettingsError"
"""Value of `PERMANENT_TAG` where the cause is the set-up, so that no smaller run would pass."""
NO_FAULT_TAGS = (CONTROL_TAG, WANTED_BYTES_TAG)
"""On runs whose end says nothing of what they covered."""
ENDED_FROM_OUTSIDE = "This run has been marked as failed from outside the execution context."
"""What Dagster says of a run whose process is gone; an event before it says more."""


@dataclass(frozen=True)
class Attempts:
    """Runs over a partition that have ended: how often they failed, and how many there were in all.

    A failure that comes again counts as several; `failed_runs` are the ids of the runs, the newest first.
    """

    failed: int = 0
    ended: int = 0
    failed_runs: tuple[str, ...] = field(default=(), compare=False)


def open_partitions(instance: dg.DagsterInstance, job_names: Iterable[str], partitions: Sequence[str]) -> set[str]:
    """Partitions in a queued or running run of these jobs; a run whose process is gone holds none.

    Args:
        partitions: all keys, in the order in which they were added.
    """
    positions = _positions(partitions)
    found: set[str] = set()
    for job_name in job_names:
        for record in _records(instance, dg.RunsFilter(job_name=job_name, statuses=list(OPEN))):
            if not is_left_behind(instance, record.dagster_run):
                found |= set(covered(record.dagster_run.tags, partitions, positions))
    return found


def count_open_runs(instance: dg.DagsterInstance, job_name: str) -> int:
    """How many runs of the job are queued or running."""
    return instance.get_runs_count(dg.RunsFilter(job_name=job_name, statuses=list(OPEN)))


def count_failed_runs(instance: dg.DagsterInstance, job_name: str, since: datetime) -> int:
    """How many runs of the job that were created after a time have failed."""
    filters = dg.RunsFilter(job_name=job_name, statuses=[dg.DagsterRunStatus.FAILURE], created_after=since)
    return sum(has_failed(instance, record) for record in _records(instance, filters))


def run_size(failed: int) -> int:
    """How many keys the next run over keys that failed so often holds at most."""
    return KEYS_PER_RUN[min(failed, len(KEYS_PER_RUN) - 1)]


def attempts(
    instance: dg.DagsterInstance,
    job_name: str,
    partitions: Sequence[str],
    since: Mapping[str, datetime],
    named: Callable[[dg.DagsterRun], Sequence[str]] = lambda run: (),
    *,
    shrinking: bool = False,
) -> dict[str, Attempts]:
    """For each key of `since`, the runs of the job over it that ended at that time or later.

    Args:
        partitions: all keys, in the order in which they were added.
        since: when counting begins, aware of its time zone; keys that are not in it are not counted.
        named: the keys that a run names itself; where it names none, it is all that it covers.
        shrinking: the job's runs get smaller by `run_size`, so failures of runs over several keys never set a
            key aside: they count at most until it has a run of its own.
    """
    if not since:
        return {}
    positions = _positions(partitions)
    counted = dict.fromkeys(since, Attempts())
    shared = dict.fromkeys(since, 0)
    earliest = min(since.values()) - timedelta(minutes=1)
    filters = dg.RunsFilter(job_name=job_name, statuses=list(ENDED), updated_after=earliest)
    for record in _records(instance, filters):
        run = record.dagster_run
        keys = named(run) or covered(run.tags, partitions, positions)
        is_shared = shrinking and len(keys) > 1 and run.tags.get(PERMANENT_TAG) != SETTING
        failed = _failures(instance, record, len(keys) if is_shared else 1)
        ids = (run.run_id,) if failed else ()
        for key in keys:
            if key in since and _ended_at(record) >= since[key].timestamp():
                found = counted[key]
                shared[key] += failed if is_shared else 0
                alone = 0 if is_shared else failed
                counted[key] = Attempts(found.failed + alone, found.ended + 1, found.failed_runs + ids)
    return {
        key: replace(found, failed=found.failed + min(shared[key], MAX_FAILURES - 1)) for key, found in counted.items()
    }


def failed_attempts(
    instance: dg.DagsterInstance,
    job_name: str,
    partitions: Sequence[str],
    since: Mapping[str, datetime],
    named: Callable[[dg.DagsterRun], Sequence[str]] = lambda run: (),
    *,
    shrinking: bool = False,
) -> dict[str, int]:
    """How often runs of the job over each key of `since` failed from that time on; a canceled run did not fail."""
    found = attempts(instance, job_name, partitions, since, named, shrinking=shrinking)
    return {key: counted.failed for key, counted in found.items()}


def why_failed(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """The first line of the error that ended a run, or None if it left none."""
    wanted = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.ENGINE_EVENT}
    before = None
    for entry in instance.all_logs(run_id, of_type=wanted):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type == dg.DagsterEventType.ENGINE_EVENT:
            before = event.message
            continue
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            text = _step_error(event)
        else:
            text = before if event.message == ENDED_FROM_OUTSIDE and before else event.message
        return next((line.strip() for line in (text or "").splitlines() if line.strip()), None)
    return None


def _step_error(event: dg.DagsterEvent) -> str | None:
    """A sentence that was meant for a person, or the error at the bottom of the others."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return None if error is None else error.message


def _failures(instance: dg.DagsterInstance, record: dg.RunRecord, keys: int) -> int:
    """What a run counts: a failure that another try cannot mend counts until the next run holds fewer keys.

    So the third failure, which is the last, is always of a run of one key.
    """
    if not has_failed(instance, record):
        return 0
    if PERMANENT_TAG not in record.dagster_run.tags:
        return 1
    return next((failed for failed in range(1, MAX_FAILURES) if run_size(failed) < keys), MAX_FAILURES)


def has_failed(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether a run failed by itself.

    A run that a person ended has not, though one that was still starting says so; neither has one that a full disk
    ended.
    """
    run = record.dagster_run
    if run.status != dg.DagsterRunStatus.FAILURE or not run.tags.keys().isdisjoint(NO_FAULT_TAGS):
        return False
    return record.start_time is not None or not was_asked_to_end(instance, run)


def was_asked_to_end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a person asked the run to end, by a command or in the UI; what the platform's stop cancels was not."""
    asked = CONTROL_TAG in run.tags or instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_CANCELING)
    return bool(asked)


def covered(
    tags: Mapping[str, str], partitions: Sequence[str], positions: Mapping[str, int] | None = None
) -> Sequence[str]:
    """The partitions that a run with these tags covers; of a range whose ends are gone, none.

    Args:
        positions: index of each partition, where the caller has it already.
    """
    if PARTITION_TAG in tags:
        return [tags[PARTITION_TAG]]
    where = _positions(partitions) if positions is None else positions
    first, last = where.get(tags.get(RANGE_START_TAG, "")), where.get(tags.get(RANGE_END_TAG, ""))
    return [] if first is None or last is None else partitions[first : last + 1]


def _positions(partitions: Sequence[str]) -> dict[str, int]:
    return {key: position for position, key in enumerate(partitions)}


def _records(instance: dg.DagsterInstance, filters: dg.RunsFilter) -> Iterator[dg.RunRecord]:
    cursor = None
    while records := instance.get_run_records(filters, limit=PAGE, cursor=cursor):
        yield from records
        if len(records) < PAGE:
            return
        cursor = records[-1].dagster_run.run_id


def _ended_at(record: dg.RunRecord) -> float:
    """Seconds since the epoch; a run that never started has no end time, only its last change."""
    return record.end_time if record.end_time is not None else record.update_timestamp.timestamp()
