"""Asset events a partition at a time.

A run covers a range of partitions, and each of them has its own facts: its rows, its hash, its
verdict. Dagster's automatic events give a whole range one data version and cannot leave one
partition out, so assets over ranges log their events themselves and declare their outputs skippable.
"""

from collections.abc import Iterator, Mapping

import dagster as dg

from gpu_assets.errors import DiskFull, PlatformError, ServiceHttpError, ServiceUnavailable, TrainingStopped

DATA_VERSION_TAG = "dagster/data_version"
CODE_VERSION_TAG = "dagster/code_version"
SHOWN_FAULTS = 3
PASSING_STATUSES = frozenset({404, 409, 429})
"""A model that is not held, a pool in which none is idle, a full queue."""
PERMANENT_TAG = "gpu_assets/permanent_failure"
"""On a run whose failure another try cannot mend."""
WANTED_BYTES_TAG = "gpu_assets/wanted_bytes"
"""On a run that a full disk ended: the free bytes with which it goes on."""


def failure(context: dg.AssetExecutionContext, error: PlatformError) -> dg.Failure:
    """The error as Dagster shows it, to be raised from it.

    A service that does not answer may answer later; so may one that is busy, or that was started again
    and does not hold the candidate any more. Every other error of ours comes again until a person
    changes something, so the run is tagged and the sensors do not try it three times. A full disk is waited for.
    """
    if isinstance(error, DiskFull):
        context.instance.add_run_tags(context.run.run_id, {WANTED_BYTES_TAG: str(error.wanted)})
    elif not _may_pass(error):
        context.instance.add_run_tags(context.run.run_id, {PERMANENT_TAG: type(error).__name__})
    return dg.Failure(str(error), allow_retries=False)


def _may_pass(error: PlatformError) -> bool:
    if isinstance(error, ServiceHttpError):
        return error.status in PASSING_STATUSES
    return isinstance(error, ServiceUnavailable | TrainingStopped)


def record_materialization(
    context: dg.AssetExecutionContext,
    asset: str,
    partition: str,
    *,
    data_version: str,
    metadata: Mapping[str, object],
    code_version: str | None = None,
) -> None:
    """Log the materialization of one partition, with its content's hash as data version.

    `code_version` is the asset's; where the asset has another one later, Dagster shows the partition as unsynced.
    """
    event = dg.AssetMaterialization(
        asset_key=dg.AssetKey(asset),
        partition=partition,
        metadata=dict(metadata),  # type: ignore[arg-type]  # Dagster turns plain values into metadata
        tags={DATA_VERSION_TAG: data_version} | ({CODE_VERSION_TAG: code_version} if code_version else {}),
    )
    context.log_event(event)


def check_results(asset: str, check: str, faults: Mapping[str, str | None]) -> Iterator[dg.AssetCheckResult]:
    """A check's one result in this run, over all partitions that it looked at, for the asset to yield.

    Dagster keeps the last evaluation of a check a run, so a verdict a partition would hide all but one. Yielded
    before an error is raised, it is recorded all the same.

    Args:
        faults: partition to what is wrong with it, None where nothing is. Empty gives no result.
    """
    if not faults:
        return
    failed = {partition: fault for partition, fault in faults.items() if fault is not None}
    yield dg.AssetCheckResult(
        asset_key=dg.AssetKey(asset),
        check_name=check,
        passed=not failed,
        metadata={
            "passed": len(faults) - len(failed),
            "failed": len(failed),
            "faults": dg.MetadataValue.json(failed),
            "partitions": dg.MetadataValue.json(list(faults)),
        },
        description="; ".join(f"{partition}: {fault}" for partition, fault in list(failed.items())[:SHOWN_FAULTS]),
    )
