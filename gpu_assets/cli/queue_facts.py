"""What the Dagster instance of a home knows of its datasets.

Imports Dagster; loaded inside the commands that need it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg

from gpu_assets.base_model.present import present_weights
from gpu_assets.datasets.queue import GaveUp, QueueFacts, Stage
from gpu_assets.datasets.records import DATASETS_PARTITIONS, MAX_FAILURES, dataset_keys, open_since, read_dataset
from gpu_assets.datasets.validated import up_to_date
from gpu_assets.errors import ArtifactInvalid, SettingsError
from resources.local_runs import is_left_behind
from resources.platform import Platform
from resources.routing import Routing
from resources.workspace import Workspace
from sensors.control import what_holds_training, what_the_disk_lacks
from sensors.judging import CHECKPOINTS, SCORES, judged_also
from sensors.runs import OPEN, attempts, covered, why_failed
from sensors.training import Trained, trained_keys

VALIDATED_DATASETS = dg.AssetKey("validated_datasets")
STAGE_OF_JOB: dict[str, Stage] = {"take_in": "taking in", "train": "training", "judge": "judging"}
JOB_OF_STAGE: dict[Stage, str] = {stage: job for job, stage in STAGE_OF_JOB.items()}
STAGE_OF_ASSET: dict[str, Stage] = {
    "datasets": "taking in",
    "validated_datasets": "taking in",
    "checkpoints": "training",
    "checkpoint_scores": "judging",
}
ROW_COUNT = "dagster/row_count"
PAGE = 1000


@contextmanager
def open_instance(workspace: Workspace) -> Iterator[dg.DagsterInstance | None]:
    """The Dagster instance of the home, or None if the home has none yet."""
    if not (workspace.dagster / "dagster.yaml").is_file():
        yield None
        return
    try:
        instance = dg.DagsterInstance.from_config(str(workspace.dagster))
    except dg.DagsterError as error:
        raise SettingsError(f"the Dagster instance in {workspace.dagster} does not open: {error}") from None
    with instance:
        yield instance


def read_facts(instance: dg.DagsterInstance, platform: Platform) -> QueueFacts:
    """What the instance knows of the platform's datasets."""
    partitions = list(instance.get_dynamic_partitions(DATASETS_PARTITIONS))
    under_way = _under_way(instance, partitions)
    validated = up_to_date(platform.workspace, instance.get_materialized_partitions(VALIDATED_DATASETS))
    trained = Trained().in_line(instance, present_weights(platform.settings, platform.workspace))
    scored = trained & _scored_after_trained(instance)
    opened = _opened(platform.workspace)
    waits: dict[Stage, dict[str, datetime]] = {"taking in": {}, "training": {}, "judging": {}}
    for key, since in opened.items():
        if key not in validated and key not in trained:
            waits["taking in"][key] = since
        elif key not in trained:
            waits["training"][key] = since
        elif key not in scored:
            waits["judging"][key] = max(since, _trained_at(instance, key))
    return QueueFacts(
        validated=validated,
        trained=trained,
        scored=scored,
        under_way=under_way,
        gave_up=_gave_up(instance, partitions, waits),
        rows=accepted_rows(instance),
        hold=_hold(instance, platform),
        full_disk=what_the_disk_lacks(instance, JOB_OF_STAGE["training"], platform),
    )


def _under_way(instance: dg.DagsterInstance, partitions: Sequence[str]) -> dict[Stage, set[str]]:
    """The keys in queued or running runs, by what these do; a run by hand may do several things."""
    found: dict[Stage, set[str]] = {stage: set() for stage in JOB_OF_STAGE}
    runs = instance.get_runs(dg.RunsFilter(statuses=list(OPEN)))
    for run in (run for run in runs if not is_left_behind(instance, run)):
        selected = {key.to_user_string() for key in run.asset_selection or ()}
        stages = {STAGE_OF_ASSET[name] for name in selected & STAGE_OF_ASSET.keys()}
        if run.job_name in STAGE_OF_JOB:
            stages = {STAGE_OF_JOB[run.job_name]}
        for stage in stages:
            found[stage] |= set(_keys_of(run, stage, partitions))
    return found


def _keys_of(run: dg.DagsterRun, stage: Stage, partitions: Sequence[str]) -> Sequence[str]:
    if stage == "training":
        return trained_keys(run) or covered(run.tags, partitions)
    return [*covered(run.tags, partitions), *(judged_also(run) if stage == "judging" else ())]


def _hold(instance: dg.DagsterInstance, platform: Platform) -> str | None:
    """Why no training run is started, as `control status` says it."""
    pool = Routing(platform.settings.hosts).gpu_pool("trainer")
    hold = what_holds_training(instance, JOB_OF_STAGE["training"], pool)
    return hold.sentence if hold is not None else None


def _gave_up(
    instance: dg.DagsterInstance, partitions: Sequence[str], waits: Mapping[Stage, Mapping[str, datetime]]
) -> dict[str, GaveUp]:
    """What failed too often over a key since it waits for it, as the sensors count."""
    gave_up: dict[str, GaveUp] = {}
    for stage, since in waits.items():
        found = attempts(
            instance,
            JOB_OF_STAGE[stage],
            partitions,
            since,
            lambda run, stage=stage: _keys_of(run, stage, partitions),  # type: ignore[misc]
            shrinking=stage != "judging",
        )
        for key, counted in found.items():
            if counted.failed >= MAX_FAILURES:
                cause = why_failed(instance, counted.failed_runs[0])
                gave_up[key] = GaveUp(stage, len(counted.failed_runs), cause)
    return gave_up


def _opened(workspace: Workspace) -> dict[str, datetime]:
    """Since when failures over each dataset count; what cannot be read is left out, `list_queue` names it."""
    opened = {}
    for key in dataset_keys(workspace):
        try:
            opened[key] = open_since(read_dataset(workspace.datasets / key))
        except (ArtifactInvalid, OSError):
            continue
    return opened


def _scored_after_trained(instance: dg.DagsterInstance) -> set[str]:
    trained, scored = (
        instance.event_log_storage.get_latest_storage_id_by_partition(asset, dg.DagsterEventType.ASSET_MATERIALIZATION)
        for asset in (CHECKPOINTS, SCORES)
    )
    return {key for key, storage_id in scored.items() if storage_id > trained.get(key, -1)}


def _trained_at(instance: dg.DagsterInstance, key: str) -> datetime:
    wanted = dg.AssetRecordsFilter(asset_key=CHECKPOINTS, asset_partitions=[key])
    (record,) = instance.fetch_materializations(wanted, limit=1).records
    return datetime.fromtimestamp(record.timestamp, UTC)


def accepted_rows(instance: dg.DagsterInstance) -> dict[str, int]:
    """Row count of each validated dataset, from its latest materialization."""
    rows: dict[str, int] = {}
    cursor = None
    while True:
        page = instance.fetch_materializations(VALIDATED_DATASETS, limit=PAGE, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization
            count = event.metadata.get(ROW_COUNT) if event is not None else None
            if record.partition_key is not None and count is not None and isinstance(count.value, int):
                rows.setdefault(record.partition_key, count.value)
        if not page.has_more:
            return rows
        cursor = page.cursor
