"""What the ledger and the export read from a Dagster instance: validations, and runs that have ended.

Beside `assets.py` the only module of the stage that knows Dagster.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import dagster as dg

from gpu_assets.datasets.validations import VALIDATION_METADATA, VALIDATION_TAG, Validation
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.lineage.records import AssetVersion, EndedRun
from resources.events import DATA_VERSION_TAG

VALIDATED_DATASETS = dg.AssetKey("validated_datasets")
LEDGER = dg.AssetKey("generator_ledger")
NEWEST_COUNTED = "newest_validation_id"
"""Metadata of the ledger: storage id of the newest validation in it."""
PAGE = 1000

UPSTREAM: Mapping[str, tuple[str, ...]] = {
    "base_model": (),
    "datasets": (),
    "validated_datasets": ("base_model", "datasets", "evaluation_sets"),
    "checkpoints": ("base_model", "validated_datasets"),
    "evaluation_sets": (),
    "checkpoint_scores": ("checkpoints", "evaluation_sets"),
    "ranking": ("checkpoint_scores", "evaluation_sets"),
    "deployed_model": ("ranking",),
    "generator_ledger": ("validated_datasets",),
}
"""The asset graph, which events do not tell; a test holds it against the definitions."""
PARTITIONED = frozenset({"datasets", "validated_datasets", "checkpoints", "checkpoint_scores"})

_OUTCOMES: Mapping[dg.DagsterRunStatus, Literal["COMPLETE", "FAIL", "ABORT"]] = {
    dg.DagsterRunStatus.SUCCESS: "COMPLETE",
    dg.DagsterRunStatus.FAILURE: "FAIL",
    dg.DagsterRunStatus.CANCELED: "ABORT",
}
_READ_OF_A_RUN = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_OBSERVATION,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
}


@dataclass(frozen=True)
class Observed:
    """All validations in the order in which they were recorded; `unreadable` has a sentence for each that is none."""

    validations: tuple[Validation, ...]
    unreadable: tuple[str, ...]
    newest_id: int | None


def read_validations(instance: dg.DagsterInstance) -> Observed:
    """Every validation that the gates recorded."""
    validations: list[Validation] = []
    unreadable: list[str] = []
    newest_id = None
    for record in _tagged(instance, ascending=True):
        newest_id = record.storage_id
        try:
            validations.append(_validation(record))
        except ArtifactInvalid as error:
            unreadable.append(f"event {record.storage_id}: {error}")
    return Observed(tuple(validations), tuple(unreadable), newest_id)


def newest_validation_id(instance: dg.DagsterInstance) -> int | None:
    """Storage id of the newest validation, or None if nothing was ever validated."""
    return next((record.storage_id for record in _tagged(instance, ascending=False, page=1)), None)


def ended_runs(instance: dg.DagsterInstance) -> list[str]:
    """Ids of all runs that have ended, oldest first."""
    return list(reversed(instance.get_run_ids(dg.RunsFilter(statuses=list(_OUTCOMES)))))


def read_ended_run(instance: dg.DagsterInstance, run_id: str) -> EndedRun | None:
    """What the run read, wrote and said; None if it was deleted, or has not ended."""
    found = instance.get_run_record_by_id(run_id)
    if found is None or found.dagster_run.status not in _OUTCOMES:
        return None
    records = list(_records_of_run(instance, run_id))
    outputs = {output.name: output for record in records for output in _outputs(record)}
    validations = {found.key: found for record in records for found in _validations(record)}
    created = found.create_timestamp.timestamp()
    ended_at = found.end_time or found.update_timestamp.timestamp()
    return EndedRun(
        run_id=run_id,
        job=found.dagster_run.job_name,
        outcome=_OUTCOMES[found.dagster_run.status],
        started_at=found.start_time or created,
        ended_at=ended_at,
        inputs=_inputs(instance, outputs.values(), validations, ended_at),
        outputs=tuple(outputs.values()),
        error=next((error for record in records if (error := _error(record))), None),
    )


def _tagged(instance: dg.DagsterInstance, *, ascending: bool, page: int = PAGE) -> Iterator[dg.EventLogRecord]:
    cursor = None
    while True:
        found = instance.fetch_observations(VALIDATED_DATASETS, limit=page, cursor=cursor, ascending=ascending)
        for record in found.records:
            event = record.asset_observation
            if event is not None and VALIDATION_TAG in (event.tags or {}):
                yield record
        if not found.has_more:
            return
        cursor = found.cursor


def _validation(record: dg.EventLogRecord) -> Validation:
    event = record.asset_observation
    entry = None if event is None else event.metadata.get(VALIDATION_METADATA)
    return Validation.from_json(None if entry is None else entry.value)


def _validations(record: dg.EventLogRecord) -> Iterator[Validation]:
    """The validation in a record of a run; what is none is the ledger's to report."""
    event = record.asset_observation
    if event is not None and VALIDATION_TAG in (event.tags or {}):
        try:
            yield _validation(record)
        except ArtifactInvalid:
            return


def _records_of_run(instance: dg.DagsterInstance, run_id: str) -> Iterator[dg.EventLogRecord]:
    cursor = None
    while True:
        found = instance.get_records_for_run(run_id, cursor=cursor, of_type=_READ_OF_A_RUN, limit=PAGE)
        yield from found.records
        if not found.has_more:
            return
        cursor = found.cursor


def _outputs(record: dg.EventLogRecord) -> Iterator[AssetVersion]:
    if record.asset_materialization is not None:
        yield _version_of(record.asset_materialization)


def _version_of(event: dg.AssetMaterialization) -> AssetVersion:
    schema: Any = getattr(event.metadata.get("dagster/column_schema"), "value", None)
    rows: Any = getattr(event.metadata.get("dagster/row_count"), "value", None)
    return AssetVersion(
        asset=event.asset_key.to_user_string(),
        partition=event.partition,
        version=(event.tags or {}).get(DATA_VERSION_TAG),
        columns=tuple((column.name, column.type) for column in schema.columns) if schema is not None else (),
        row_count=rows,
    )


def _inputs(
    instance: dg.DagsterInstance,
    outputs: Iterable[AssetVersion],
    validations: Mapping[str, Validation],
    before: float,
) -> tuple[AssetVersion, ...]:
    """What the run's outputs and validations were made from, in the versions that were newest when it ended."""
    made = [(output.asset, output.partition) for output in outputs]
    made += [("validated_datasets", key) for key in validations]
    wanted: dict[str, dict[str | None, None]] = {}
    for asset, partition in made:
        for upstream in UPSTREAM.get(asset, ()):
            wanted.setdefault(upstream, {})[partition if upstream in PARTITIONED else None] = None
    return tuple(
        replace(found, validation=validations.get(found.partition or "")) if found.asset == "datasets" else found
        for asset, partitions in wanted.items()
        for found in _versions(instance, asset, list(partitions), before)
    )


def _versions(
    instance: dg.DagsterInstance, asset: str, partitions: list[str | None], before: float
) -> Iterator[AssetVersion]:
    """The newest version of each partition; of one that was never materialized its name alone."""
    keys = [partition for partition in partitions if partition is not None]
    found: dict[str | None, AssetVersion] = {}
    for start in range(0, len(keys), PAGE):
        chosen = keys[start : start + PAGE]
        found |= _newest(instance, dg.AssetRecordsFilter(dg.AssetKey(asset), chosen, before_timestamp=before), chosen)
    if None in partitions:
        wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), before_timestamp=before)
        for record in instance.fetch_materializations(wanted, limit=1).records:
            if record.asset_materialization is not None:
                found[None] = replace(_version_of(record.asset_materialization), partition=None)
    for partition in partitions:
        yield found.get(partition, AssetVersion(asset, partition))


def _newest(
    instance: dg.DagsterInstance, wanted: dg.AssetRecordsFilter, partitions: list[str]
) -> dict[str | None, AssetVersion]:
    found: dict[str | None, AssetVersion] = {}
    cursor = None
    while len(found) < len(partitions):
        page = instance.fetch_materializations(wanted, limit=PAGE, cursor=cursor)
        for record in page.records:
            if record.asset_materialization is not None:
                found.setdefault(record.partition_key, _version_of(record.asset_materialization))
        if not page.has_more:
            break
        cursor = page.cursor
    return found


def _error(record: dg.EventLogRecord) -> str | None:
    event = record.event_log_entry.dagster_event
    if event is None or not event.is_failure:
        return None
    if event.is_step_failure:
        data = event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            return str(data.user_failure_data.description)
        if data.error is not None:
            return str(data.error.message).strip()
    return event.message
