"""The training sensor: what is validated and not trained, by priority, up to a budget of rows.

Level-triggered: the plan is made anew each tick from what is materialized and what is running, so
a missed event or a crash costs one tick. `plan_training` is pure; `build_training_sensor` reads,
calls it and requests the run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from gpu_assets.datasets.records import DATASETS_PARTITIONS, MAX_FAILURES, dataset_keys, find_dataset, open_since
from gpu_assets.datasets.validate import read_validated
from gpu_assets.training.publish import unfinished_datasets
from resources.artifacts import is_complete
from resources.platform import Platform
from sensors.runs import (
    AD_HOC_JOB,
    PRIORITY_TAG,
    PRIORITY_TAGS,
    RANGE_END_TAG,
    RANGE_START_TAG,
    failed_attempts,
    open_partitions,
)

TAKE_IN_JOB = "take_in"


@dataclass(frozen=True)
class Waiting:
    """A validated dataset that no checkpoint was trained on."""

    key: str
    rows: int
    priority: str


@dataclass(frozen=True)
class TrainingRun:
    """What the next run covers: a range of partitions, and which of them it trains on."""

    keys: tuple[str, ...]
    first: str
    last: str
    rows: int
    priority: str


def plan_training(
    waiting: Sequence[Waiting], order: Sequence[str], max_rows: int, unfinished: Sequence[str] = ()
) -> TrainingRun | None:
    """The next run, or None if nothing waits.

    Args:
        waiting: what could be trained on, in any order.
        order: all partition keys, in the order in which they were added.
        max_rows: the budget; the first dataset is always taken.
        unfinished: the datasets of a plan that has a resume point; they go first, and alone, so
            that the run goes on where it was stopped.
    """
    place = {key: position for position, key in enumerate(order)}
    by_key = {entry.key: entry for entry in waiting if entry.key in place}
    if unfinished and all(key in by_key for key in unfinished):
        chosen = [by_key[key] for key in unfinished]
    else:
        chosen = _within_budget(_by_priority(by_key, place), max_rows)
    if not chosen:
        return None
    spanned = sorted((entry.key for entry in chosen), key=place.__getitem__)
    return TrainingRun(
        keys=tuple(entry.key for entry in chosen),
        first=spanned[0],
        last=spanned[-1],
        rows=sum(entry.rows for entry in chosen),
        priority=chosen[0].priority,
    )


def _by_priority(waiting: Mapping[str, Waiting], place: Mapping[str, int]) -> list[Waiting]:
    return sorted(waiting.values(), key=lambda entry: (-int(PRIORITY_TAGS[entry.priority]), place[entry.key]))


def _within_budget(ordered: Sequence[Waiting], max_rows: int) -> list[Waiting]:
    chosen: list[Waiting] = []
    rows = 0
    for entry in ordered:
        if chosen and rows + entry.rows > max_rows:
            break
        chosen.append(entry)
        rows += entry.rows
    return chosen


def build_training_sensor(platform: Platform, job_name: str) -> dg.SensorDefinition:
    """The sensor that starts training runs, one at a time."""

    @dg.sensor(
        name="training_sensor",
        job_name=job_name,
        minimum_interval_seconds=2,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Trains what is validated and not trained, by priority, up to the budget of rows.",
    )
    def training_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        instance = context.instance
        order = list(instance.get_dynamic_partitions(DATASETS_PARTITIONS))
        if open_partitions(instance, [job_name, AD_HOC_JOB], order):
            return dg.SkipReason("a training run is queued or running; it takes no more datasets once planned")
        waiting, set_aside = _waiting(instance, platform, job_name, order)
        run = plan_training(
            waiting, order, platform.settings.hyperparams.max_rows_per_run, unfinished_datasets(platform.workspace)
        )
        if run is None:
            tail = (
                f"; set aside after failed runs, until `gpu-assets queue retry KEY`: {', '.join(set_aside)}"
                if set_aside
                else ""
            )
            return dg.SkipReason(f"no validated dataset waits for training{tail}")
        return _request(run)

    return training_sensor


def _waiting(
    instance: dg.DagsterInstance, platform: Platform, job_name: str, order: Sequence[str]
) -> tuple[list[Waiting], list[str]]:
    """What could be trained on now, and what failed too often.

    Datasets of a taking-in run that has not ended are left out, so that its files are trained together; so is
    what somebody removed from the disk.
    """
    validated = instance.get_materialized_partitions(dg.AssetKey("validated_datasets"))
    trained = instance.get_materialized_partitions(dg.AssetKey("checkpoints"))
    present = {
        key for key in dataset_keys(platform.workspace) if is_complete(platform.workspace.datasets / key / "validated")
    }
    untrained = (validated - trained - open_partitions(instance, [TAKE_IN_JOB], order)) & present
    since = {key: open_since(find_dataset(platform.workspace, key)) for key in untrained}
    failures = failed_attempts(instance, job_name, order, since, trained_keys)
    set_aside = sorted(key for key in untrained if failures.get(key, 0) >= MAX_FAILURES)
    waiting = [_read_waiting(platform, key) for key in sorted(untrained - set(set_aside))]
    return waiting, set_aside


def trained_keys(run: dg.DagsterRun) -> Sequence[str]:
    """The datasets that a training run's config names; the range that it spans may hold others."""
    ops: Any = run.run_config.get("ops", {})
    return list(ops.get("checkpoints", {}).get("config", {}).get("datasets", []))


def _read_waiting(platform: Platform, key: str) -> Waiting:
    rows = read_validated(platform.workspace, key).rows
    return Waiting(key, rows, find_dataset(platform.workspace, key).priority)


def _request(run: TrainingRun) -> dg.RunRequest:
    return dg.RunRequest(
        tags={
            RANGE_START_TAG: run.first,
            RANGE_END_TAG: run.last,
            PRIORITY_TAG: PRIORITY_TAGS[run.priority],
            "gpu_assets/rows": str(run.rows),
        },
        run_config={"ops": {"checkpoints": {"config": {"datasets": list(run.keys)}}}},
    )
