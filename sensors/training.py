"""The training sensor: what is validated and not trained in the line of the base model, by priority.

Level-triggered: the plan is made anew each tick from what is materialized and what is running, so
a missed event or a crash costs one tick. `plan_training` is pure; `build_training_sensor` reads,
calls it and requests the run.
"""

import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from gpu_assets.base_model.describe import what_base_model_lacks
from gpu_assets.base_model.present import present_weights
from gpu_assets.datasets.records import (
    DATASETS_PARTITIONS,
    MAX_FAILURES,
    dataset_keys,
    find_dataset,
    open_since,
    standing_skip,
)
from gpu_assets.datasets.validated import read_validated
from gpu_assets.errors import ArtifactInvalid, SettingsError
from gpu_assets.training.records import BASE_WEIGHTS
from gpu_assets.training.work import Unfinished, find_unfinished
from resources.artifacts import is_complete
from resources.platform import Platform
from resources.routing import Routing
from sensors.control import CHECKPOINTS, what_holds_training, what_the_disk_lacks
from sensors.runs import (
    AD_HOC_JOB,
    PAGE,
    PRIORITY_TAG,
    PRIORITY_TAGS,
    RANGE_END_TAG,
    RANGE_START_TAG,
    failed_attempts,
    open_partitions,
    run_size,
)

logger = logging.getLogger(__name__)

TAKE_IN_JOB = "take_in"


@dataclass(frozen=True)
class Waiting:
    """A validated dataset that no checkpoint of the line was trained on; `failed` as `attempts` counts.

    `opened_at` is when it was taken in or tried again. `again` marks what was trained on, and waits only to go on with
    an unfinished plan that trains on it again.
    """

    key: str
    rows: int
    priority: str
    failed: int = 0
    opened_at: datetime = datetime.min.replace(tzinfo=UTC)
    again: bool = False


@dataclass(frozen=True)
class TrainingRun:
    """What the next run covers: a range of partitions, which of them it trains on, and what else its config says."""

    keys: tuple[str, ...]
    first: str
    last: str
    rows: int
    priority: str
    asked: Mapping[str, Any] = field(default_factory=dict)


def plan_training(
    waiting: Sequence[Waiting], order: Sequence[str], max_rows: int, unfinished: Unfinished | None = None
) -> TrainingRun | None:
    """The next run, or None if nothing waits.

    What comes first, by priority and then by age, decides how often the datasets of the run failed before, and
    so how many it holds: what failed in a run of many is tried in smaller ones, until what fails is alone.

    Args:
        waiting: what could be trained on, in any order.
        order: all partition keys, in the order in which they were added.
        max_rows: the budget; the first dataset is always taken.
        unfinished: a plan that has a resume point; its datasets go first, and alone, with the config that it was
            started with, so that the run goes on where it was stopped. One that failed so often that each of its
            datasets needs a run of its own is given up.
    """
    place = {key: position for position, key in enumerate(order)}
    by_key = {entry.key: entry for entry in waiting if entry.key in place}
    asked: Mapping[str, Any] = {}
    stopped = [by_key[key] for key in unfinished.datasets if key in by_key] if unfinished is not None else []
    if unfinished is not None and stopped and len(stopped) == len(unfinished.datasets) and _can_go_on(stopped):
        chosen, asked = stopped, unfinished.asked
    else:
        new = {key: entry for key, entry in by_key.items() if not entry.again}
        chosen = _next(_by_priority(new, place), max_rows)
    if not chosen:
        return None
    spanned = sorted((entry.key for entry in chosen), key=place.__getitem__)
    return TrainingRun(
        keys=tuple(entry.key for entry in chosen),
        first=spanned[0],
        last=spanned[-1],
        rows=sum(entry.rows for entry in chosen),
        priority=chosen[0].priority,
        asked=asked,
    )


def _by_priority(waiting: Mapping[str, Waiting], place: Mapping[str, int]) -> list[Waiting]:
    return sorted(waiting.values(), key=lambda entry: (-int(PRIORITY_TAGS[entry.priority]), place[entry.key]))


def _can_go_on(stopped: Sequence[Waiting]) -> bool:
    return len(stopped) == 1 or run_size(max(entry.failed for entry in stopped)) > 1


def _next(ordered: Sequence[Waiting], max_rows: int) -> list[Waiting]:
    """Datasets that failed as often as the first, within the budget; new ones are limited by that alone."""
    if not ordered:
        return []
    failed = ordered[0].failed
    alike = [entry for entry in ordered if entry.failed == failed]
    chosen: list[Waiting] = []
    rows = 0
    for entry in alike[: run_size(failed)] if failed else alike:
        if chosen and rows + entry.rows > max_rows:
            break
        chosen.append(entry)
        rows += entry.rows
    return chosen


def build_training_sensor(platform: Platform, job_name: str) -> dg.SensorDefinition:
    """The sensor that starts training runs, one at a time, unless a person holds training."""
    trained = Trained()
    pool = Routing(platform.settings.hosts).gpu_pool("trainer")

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
        hold = what_holds_training(instance, job_name, pool)
        base = present_weights(platform.settings, platform.workspace)
        unfinished = find_unfinished(platform.workspace, base) if base is not None else None
        again = set(unfinished.datasets) if unfinished is not None and unfinished.trains_again else set()
        done = trained.in_line(instance, base)
        waiting, set_aside = _waiting(instance, platform, job_name, order, done - again, done & again)
        if hold is not None and hold.binds(max((entry.opened_at for entry in waiting), default=None)):
            return dg.SkipReason(f"{hold.sentence}; {len(waiting)} datasets wait for training")
        run = plan_training(waiting, order, platform.settings.hyperparams.max_rows_per_run, unfinished)
        if run is None:
            return dg.SkipReason(f"no validated dataset waits for training{_set_aside_sentence(set_aside)}")
        if (lacking := what_base_model_lacks(platform.settings, platform.workspace)) is not None:
            return dg.SkipReason(f"{len(waiting)} datasets wait for training, and they for the base model: {lacking}")
        if (full := what_the_disk_lacks(instance, job_name, platform)) is not None:
            return dg.SkipReason(f"{len(waiting)} datasets wait for training: {full}")
        return _request(run)

    return training_sensor


class Trained:
    """What was trained in the line of a base model, from the newest materialization of each partition.

    Remembers which base model a materialization names, so that a tick reads only those that are new to it.
    """

    def __init__(self) -> None:
        self._base_of: dict[int, str | None] = {}

    def in_line(self, instance: dg.DagsterInstance, base_weights: str | None) -> set[str]:
        """The partitions whose newest checkpoint began at these weights; none where there is no base model.

        A materialization that names no base model was reported by hand and counts for every line.
        """
        newest = instance.event_log_storage.get_latest_storage_id_by_partition(
            CHECKPOINTS, dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        self._read(instance, [found for found in newest.values() if found not in self._base_of])
        if base_weights is None:
            return set()
        return {key for key, found in newest.items() if self._base_of.get(found) in (base_weights, None)}

    def _read(self, instance: dg.DagsterInstance, storage_ids: Sequence[int]) -> None:
        for start in range(0, len(storage_ids), PAGE):
            wanted = dg.AssetRecordsFilter(asset_key=CHECKPOINTS, storage_ids=list(storage_ids[start : start + PAGE]))
            for record in instance.fetch_materializations(wanted, limit=PAGE).records:
                event = record.asset_materialization
                base = event.metadata.get(BASE_WEIGHTS) if event is not None else None
                self._base_of[record.storage_id] = None if base is None else str(base.value)


def _set_aside_sentence(keys: Sequence[str]) -> str:
    if not keys:
        return ""
    return f"; set aside until `gpu-assets queue retry KEY`: {', '.join(keys)}"


def _waiting(
    instance: dg.DagsterInstance,
    platform: Platform,
    job_name: str,
    order: Sequence[str],
    trained: AbstractSet[str],
    again: AbstractSet[str],
) -> tuple[list[Waiting], list[str]]:
    """What could be trained on now, and what was skipped, failed too often or cannot be read.

    Datasets of a taking-in run that has not ended are left out, so that its files are trained together; so is
    what somebody removed from the disk.
    """
    validated = instance.get_materialized_partitions(dg.AssetKey("validated_datasets"))
    present = {
        key for key in dataset_keys(platform.workspace) if is_complete(platform.workspace.datasets / key / "validated")
    }
    untrained = (validated - trained - open_partitions(instance, [TAKE_IN_JOB], order)) & present
    readable, skipped, broken = _read_all(platform, sorted(untrained))
    since = {entry.key: entry.opened_at for entry in readable}
    failures = failed_attempts(instance, job_name, order, since, trained_keys, shrinking=True)
    failed = [key for key in since if failures.get(key, 0) >= MAX_FAILURES]
    waiting = [
        replace(entry, failed=failures.get(entry.key, 0), again=entry.key in again)
        for entry in readable
        if entry.key not in failed
    ]
    return waiting, [*failed, *skipped, *broken]


def _read_all(platform: Platform, keys: Sequence[str]) -> tuple[list[Waiting], list[str], list[str]]:
    """What could be trained on, what a person skipped, and what cannot be read and must hold no other."""
    readable: list[Waiting] = []
    skipped: list[str] = []
    broken: list[str] = []
    for key in keys:
        try:
            dataset = find_dataset(platform.workspace, key)
            if standing_skip(dataset.folder) is not None:
                skipped.append(key)
                continue
            rows = read_validated(platform.workspace, key).rows
            readable.append(Waiting(key, rows, dataset.priority, opened_at=open_since(dataset)))
        except (ArtifactInvalid, SettingsError, OSError) as error:
            logger.error("%s is left out: %s", key, error)
            broken.append(f"{key} (cannot be read)")
    return readable, skipped, broken


def trained_keys(run: dg.DagsterRun) -> Sequence[str]:
    """The datasets that a training run's config names; the range that it spans may hold others."""
    ops: Any = run.run_config.get("ops", {})
    return list(ops.get("checkpoints", {}).get("config", {}).get("datasets", []))


def _request(run: TrainingRun) -> dg.RunRequest:
    return dg.RunRequest(
        tags={
            RANGE_START_TAG: run.first,
            RANGE_END_TAG: run.last,
            PRIORITY_TAG: PRIORITY_TAGS[run.priority],
            "gpu_assets/rows": str(run.rows),
        },
        run_config={"ops": {"checkpoints": {"config": {"datasets": list(run.keys), **run.asked}}}},
    )
