"""The ledger sensor: counts the validations again when there are newer ones.

Level-triggered: the newest validation in the events is compared with the newest that the ledger counted.
`plan_ledger` is pure; `build_ledger_sensor` reads, calls it and requests the run.
"""

from datetime import UTC, datetime

import dagster as dg

from gpu_assets.datasets.records import MAX_FAILURES
from gpu_assets.lineage.events import LEDGER, NEWEST_COUNTED, newest_validation_id
from sensors.runs import count_failed_runs, count_open_runs

INTERVAL_S = 15
"""A burst of files is counted a few times, not once a file."""


def plan_ledger(newest: int | None, counted: int | None, *, is_open: bool, failed: int) -> str | None:
    """Why there is nothing to do, or None if the ledger is behind.

    Args:
        newest: storage id of the newest validation, None if nothing was ever validated.
        counted: storage id of the newest validation in the ledger, None before the first.
        is_open: whether a run over the ledger is queued or running.
        failed: its runs that failed since it was materialized last.
    """
    if newest is None:
        return "nothing was validated yet"
    if counted is not None and counted >= newest:
        return "every validation is in the ledger"
    if is_open:
        return "a run over the ledger is queued or running"
    if failed >= MAX_FAILURES:
        return f"{failed} runs over the ledger failed; mend the cause and materialize generator_ledger by hand"
    return None


def build_ledger_sensor(job_name: str) -> dg.SensorDefinition:
    """The sensor that starts the ledger's runs, one at a time."""

    @dg.sensor(
        name="ledger_sensor",
        job_name=job_name,
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Counts validations by generator and by validator when there are new ones.",
    )
    def ledger_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        instance = context.instance
        # Open runs first: one that ends in between has recorded what it counted.
        is_open = count_open_runs(instance, job_name) > 0
        counted, since = _counted(instance)
        reason = plan_ledger(
            newest_validation_id(instance),
            counted,
            is_open=is_open,
            failed=count_failed_runs(instance, job_name, since),
        )
        return dg.RunRequest() if reason is None else dg.SkipReason(reason)

    return ledger_sensor


def _counted(instance: dg.DagsterInstance) -> tuple[int | None, datetime]:
    """The newest validation that the ledger holds, and when it was materialized; long ago if never."""
    newest = instance.fetch_materializations(LEDGER, limit=1).records
    event = newest[0].asset_materialization if newest else None
    if event is None:
        return None, datetime.fromtimestamp(0, UTC)
    value = getattr(event.metadata.get(NEWEST_COUNTED), "value", None)
    return value if isinstance(value, int) else None, datetime.fromtimestamp(newest[0].timestamp, UTC)
