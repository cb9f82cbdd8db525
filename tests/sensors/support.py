"""What training and judging sensors look at: partitions, materializations and runs, made by hand."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
import polars as pl
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from gpu_assets.datasets.records import DATASETS_PARTITIONS, Dataset
from gpu_assets.settings import Priority
from resources.artifacts import write_json
from resources.events import PERMANENT_TAG
from resources.workspace import Workspace
from serving.skills import binary


def add_dataset(workspace: Workspace, key: str, *, priority: Priority = "normal", rows: int = 10) -> Dataset:
    """A dataset that was taken in, and its validated rows on disk."""
    folder = workspace.datasets / key
    (folder / "validated").mkdir(parents=True)
    dataset = Dataset(
        key=key,
        folder=folder,
        data_path=folder / "data.jsonl",
        sidecar_path=None,
        sha256=f"sha-of-{key}",
        size_bytes=1,
        priority=priority,
        priority_source="folder",
        original_name=f"{key}.jsonl",
        inbox_path=f"{key}.jsonl",
        taken_in_at=datetime.now(UTC).isoformat(timespec="seconds"),
        refused=None,
    )
    write_json(folder / "manifest.json", dataset.to_manifest())
    generated = [row["messages"] for row in binary.training_rows(1, rows, random.Random(0))]
    pl.DataFrame({"messages": generated}).write_parquet(folder / "validated" / "rows.parquet")
    manifest = {
        "kind": "validated_dataset",
        "rows_sha256": f"rows-of-{key}",
        "accepted": rows,
        "rejected": 0,
        "schema": "chat_sft_v1",
        "generator": {"id": "manual", "version": None},
    }
    write_json(folder / "validated" / "manifest.json", manifest)
    return dataset


def add_partitions(instance: dg.DagsterInstance, *keys: str) -> None:
    instance.add_dynamic_partitions(DATASETS_PARTITIONS, list(keys))


def record(instance: dg.DagsterInstance, asset: str, *keys: str, **metadata: str) -> None:
    """Materialize partitions of an asset, in this order."""
    for key in keys:
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key, metadata=metadata))


def one_job(name: str) -> dg.Definitions:
    """A job of this name over the datasets' partitions, for runs that are only recorded."""
    partitions = dg.DynamicPartitionsDefinition(name=DATASETS_PARTITIONS)

    @dg.op(config_schema=dg.Permissive({}))
    def checkpoints() -> None:
        pass

    @dg.job(name=name, partitions_def=partitions)
    def job() -> None:
        checkpoints()

    return dg.Definitions(jobs=[job])


def add_open_run(
    instance: dg.DagsterInstance,
    job: str,
    first: str,
    last: str | None = None,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    datasets: Sequence[str] = (),
) -> dg.DagsterRun:
    """A run of a job over a range of partitions that has not ended; `datasets` are those that it trains on."""
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
    run_config = {"ops": {"checkpoints": {"config": {"datasets": list(datasets)}}}} if datasets else None
    definition = one_job(job).resolve_job_def(job)
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("trainer"), "__repository__")
    return instance.create_run_for_job(
        definition,
        status=status,
        tags=tags,
        run_config=run_config,
        remote_job_origin=RemoteJobOrigin(repository, job),  # without which no run can be queued
    )


def add_failed_run(
    instance: dg.DagsterInstance,
    job: str,
    first: str,
    last: str | None = None,
    *,
    permanent: bool | str = False,
    datasets: Sequence[str] = (),
    message: str | None = None,
) -> dg.DagsterRun:
    """A run of a job over a range of partitions that ends now, in failure; `permanent` may name the error."""
    run = add_open_run(instance, job, first, last, datasets=datasets)
    if permanent:
        instance.add_run_tags(run.run_id, {PERMANENT_TAG: permanent if isinstance(permanent, str) else "true"})
    instance.report_run_failed(run, message)
    return run
