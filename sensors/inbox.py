"""The inbox sensor: takes in what was dropped, and starts runs over what waits for its gates.

Level-triggered: each tick plans anew from what is on disk, materialized, open and failed, so that
a missed tick, a crash or a deleted run costs nothing.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from gpu_assets.base_model.describe import what_base_model_lacks
from gpu_assets.datasets.intake import DEFAULT_LIMITS, Limits, take_in
from gpu_assets.datasets.records import (
    DATASETS_PARTITIONS,
    MAX_FAILURES,
    Dataset,
    dataset_keys,
    open_since,
    read_dataset,
    standing_refusal,
)
from gpu_assets.datasets.scan import scan
from gpu_assets.datasets.validated import up_to_date
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import Priority
from resources.artifacts import sha256_json
from resources.platform import Platform
from resources.workspace import PRIORITIES, Workspace
from sensors.runs import (
    AD_HOC_JOB,
    PRIORITY_TAG,
    PRIORITY_TAGS,
    RANGE_END_TAG,
    RANGE_START_TAG,
    Attempts,
    attempts,
    count_open_runs,
    open_partitions,
    run_size,
)

VALIDATED_DATASETS = dg.AssetKey("validated_datasets")
DATASETS_TAG = "gpu_assets/datasets"
MAX_RUNS_WITH_RETRIES = 10
"""Runs over what failed before are started only up to so many open ones: new files never wait behind them."""
SHOWN_NOTES = 5
SECONDS_BETWEEN_LISTENING = 0.25
LISTENED = 14
"""Times; together well under the five seconds after which Dagster begins the next tick."""


@dataclass(frozen=True)
class Candidate:
    """A dataset that is neither validated nor in an open run; `opened_at` is since when `attempts` counts."""

    key: str
    priority: Priority
    opened_at: str
    attempts: Attempts
    refused_at_inbox: bool
    refused_by_gate: bool

    @property
    def is_set_aside(self) -> bool:
        """Whether it waits for a person: refused, or failed too often."""
        if self.refused_at_inbox and self.attempts.failed:
            return True
        return self.refused_by_gate or self.attempts.failed >= MAX_FAILURES


@dataclass(frozen=True)
class Segment:
    """Keys of one run: neighbours in the order of partitions, of one priority, that failed equally often."""

    keys: tuple[str, ...]
    priority: Priority
    failed: int
    run_key: str

    def tags(self) -> dict[str, str]:
        return {
            RANGE_START_TAG: self.keys[0],
            RANGE_END_TAG: self.keys[-1],
            PRIORITY_TAG: PRIORITY_TAGS[self.priority],
            DATASETS_TAG: str(len(self.keys)),
        }


@dataclass(frozen=True)
class IntakePlan:
    """`new_partitions` are to be added, in this order, before the segments' runs start."""

    new_partitions: tuple[str, ...]
    segments: tuple[Segment, ...]
    set_aside: tuple[str, ...]


def plan(
    candidates: Iterable[Candidate],
    partitions: Sequence[str],
    open_runs: int = 0,
    max_retries: int = MAX_RUNS_WITH_RETRIES,
) -> IntakePlan:
    """Which partitions to add and which runs to start.

    New partitions are added by priority, then key. A segment ends where the next partition is not
    to be run, has another priority or number of failures, or the run is full. Segments that failed
    before come last, and only as many as there is room for.

    Args:
        partitions: all keys, in the order in which they were added.
        open_runs: queued and running runs of the job.
        max_retries: the open runs up to which segments that failed before are started.
    """
    known = set(partitions)
    by_key = {candidate.key: candidate for candidate in candidates}
    new = sorted(by_key.keys() - known, key=lambda key: (PRIORITIES.index(by_key[key].priority), key))
    runnable = {key: candidate for key, candidate in by_key.items() if not candidate.is_set_aside}
    groups = _groups([*partitions, *new], runnable)
    segments = sorted((_segment(group) for group in groups), key=lambda segment: PRIORITIES.index(segment.priority))
    fresh = [segment for segment in segments if not segment.failed]
    retries = [segment for segment in segments if segment.failed]
    room = max(0, max_retries - open_runs - len(fresh))
    return IntakePlan(tuple(new), (*fresh, *retries[:room]), tuple(sorted(by_key.keys() - runnable.keys())))


def _groups(order: Iterable[str], runnable: dict[str, Candidate]) -> Iterator[list[Candidate]]:
    group: list[Candidate] = []
    for key in order:
        candidate = runnable.get(key)
        if group and (candidate is None or not _belongs(candidate, group)):
            yield group
            group = []
        if candidate is not None:
            group.append(candidate)
    if group:
        yield group


def _belongs(candidate: Candidate, group: list[Candidate]) -> bool:
    first = group[0]
    is_alike = (candidate.priority, candidate.attempts.failed) == (first.priority, first.attempts.failed)
    return is_alike and len(group) < run_size(first.attempts.failed)


def _segment(group: list[Candidate]) -> Segment:
    """Its run key changes when a run over one of its keys has ended, or one was opened again."""
    identity = [[candidate.key, candidate.opened_at, candidate.attempts.ended] for candidate in group]
    keys = tuple(candidate.key for candidate in group)
    return Segment(keys, group[0].priority, group[0].attempts.failed, sha256_json(identity)[:16])


def build_inbox_sensor(
    platform: Platform,
    job_name: str = "take_in",
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds: int = 2,
    limits: Limits = DEFAULT_LIMITS,
    pause: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
) -> dg.SensorDefinition:
    """The sensor over a platform's inbox; `pause` and `now` are the clock of `take_in`.

    Without a base model, whose tokens the gates count, files are taken in and wait as partitions:
    a run could only fail.
    """
    workspace, settle_s = platform.workspace, platform.settings.intake.settle_s

    @dg.sensor(
        name="inbox",
        job_name=job_name,
        default_status=default_status,
        minimum_interval_seconds=minimum_interval_seconds,
        description="Takes files out of the inbox and starts runs over datasets that wait for their gates.",
    )
    def inbox(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        result = look(context)
        if isinstance(result, dg.SkipReason) and something_arrives(workspace, pause):
            return look(context)
        return result

    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        instance = context.instance
        partitions = instance.get_dynamic_partitions(DATASETS_PARTITIONS)
        # Open runs first: one that ends in between has recorded what it materialized.
        open_keys = open_partitions(instance, (job_name, AD_HOC_JOB), partitions)
        validated = up_to_date(workspace, instance.get_materialized_partitions(VALIDATED_DATASETS))
        report = take_in(
            workspace,
            validated=validated,
            open_keys=open_keys,
            limits=limits,
            settle_s=settle_s,
            pause=pause,
            now=now,
        )
        candidates, problems = find_candidates(instance, workspace, job_name, partitions, validated | open_keys)
        planned = plan(candidates, partitions, count_open_runs(instance, job_name))
        lacking = what_base_model_lacks(platform.settings, workspace) if planned.segments else None
        notes = [] if lacking is None else [_waiting_sentence(planned, lacking)]
        notes += [*report.notes, *problems]
        for note in notes:
            context.log.info(note)
        segments = planned.segments if lacking is None else ()
        skip = None if segments else dg.SkipReason(skip_sentence(notes, open_keys, planned.set_aside))
        if skip is not None and not planned.new_partitions:
            return skip
        return _result(segments, planned.new_partitions, skip)

    return inbox


def something_arrives(workspace: Workspace, pause: Callable[[float], None]) -> bool:
    """Whether an empty inbox gets an entry within the next seconds.

    Dagster looks at its sensors every five seconds; a tick that has nothing to do listens for most of
    them, so that a file is seen when it comes and not at the next tick.
    """
    if len(scan(workspace.inbox)):
        return False
    for _ in range(LISTENED):
        pause(SECONDS_BETWEEN_LISTENING)
        if len(scan(workspace.inbox)):
            return True
    return False


def find_candidates(
    instance: dg.DagsterInstance,
    workspace: Workspace,
    job_name: str,
    partitions: Sequence[str],
    done: Collection[str],
) -> tuple[list[Candidate], list[str]]:
    """The datasets that are not done, and a sentence for each that cannot be read."""
    datasets: list[Dataset] = []
    problems: list[str] = []
    for key in dataset_keys(workspace):
        if key in done:
            continue
        try:
            dataset = read_dataset(workspace.datasets / key)
            _ = standing_refusal(dataset.folder), open_since(dataset)
            datasets.append(dataset)
        except (ArtifactInvalid, OSError) as error:
            problems.append(str(error))
    opened = {dataset.key: open_since(dataset) for dataset in datasets}
    counted = attempts(instance, job_name, partitions, opened, shrinking=True)
    candidates = [
        Candidate(
            key=dataset.key,
            priority=dataset.priority,
            opened_at=opened[dataset.key].isoformat(),
            attempts=counted[dataset.key],
            refused_at_inbox=dataset.refused is not None,
            refused_by_gate=standing_refusal(dataset.folder) is not None,
        )
        for dataset in datasets
    ]
    return candidates, problems


def skip_sentence(notes: Sequence[str], open_keys: Collection[str], set_aside: Sequence[str]) -> str:
    """Why a tick starts nothing."""
    sentences = list(notes[:SHOWN_NOTES])
    if len(notes) > SHOWN_NOTES:
        sentences.append(f"{len(notes) - SHOWN_NOTES} further notes are in the tick's log")
    if open_keys:
        sentences.append(f"{len(open_keys)} datasets are in an open run")
    if set_aside:
        named = ", ".join(set_aside[:SHOWN_NOTES]) + (", ..." if len(set_aside) > SHOWN_NOTES else "")
        sentences.append(f"{len(set_aside)} refused or failed too often (`gpu-assets queue list` says why): {named}")
    return "; ".join(sentences) or "the inbox is empty and every dataset is validated"


def _waiting_sentence(planned: IntakePlan, lacking: str) -> str:
    count = sum(len(segment.keys) for segment in planned.segments)
    return f"{count} datasets wait for the base model, no run is started: {lacking}"


def _result(segments: Iterable[Segment], new_partitions: Sequence[str], skip: dg.SkipReason | None) -> dg.SensorResult:
    additions = [dg.AddDynamicPartitionsRequest(DATASETS_PARTITIONS, list(new_partitions))]
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=segment.run_key, tags=segment.tags()) for segment in segments],
        skip_reason=skip,
        dynamic_partitions_requests=additions if new_partitions else [],
    )
