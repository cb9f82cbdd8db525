"""Asset events a partition at a time.

A run covers a range of partitions, and each of them has its own facts: its rows, its hash, its
verdict. Dagster's automatic events give a whole range one data version and cannot leave one
partition out, so assets over ranges log their events themselves and declare their outputs skippable.
"""

from collections.abc import Mapping

import dagster as dg

DATA_VERSION_TAG = "dagster/data_version"


def record_materialization(
    context: dg.AssetExecutionContext,
    asset: str,
    partition: str,
    *,
    data_version: str,
    metadata: Mapping[str, object],
) -> None:
    """Log the materialization of one partition, with its content's hash as data version."""
    event = dg.AssetMaterialization(
        asset_key=dg.AssetKey(asset),
        partition=partition,
        metadata=dict(metadata),  # type: ignore[arg-type]  # Dagster turns plain values into metadata
        tags={DATA_VERSION_TAG: data_version},
    )
    context.log_event(event)


def record_check(
    context: dg.AssetExecutionContext,
    asset: str,
    check: str,
    partition: str,
    *,
    passed: bool,
    description: str,
    metadata: Mapping[str, object],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    blocking: bool = True,
) -> None:
    """Log the evaluation of one check on one partition."""
    event = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(asset),
        check_name=check,
        passed=passed,
        metadata={"dataset": partition, **metadata},  # type: ignore[dict-item]
        severity=severity,
        description=description,
        blocking=blocking,
    )
    context.log_event(event)
