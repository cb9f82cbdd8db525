"""What Dagster knows of what a person asked of training: the pool's limit, canceled runs, and the record of commands.

The record is an observation of `checkpoints`, so that the asset's page shows who stopped what, when and why.
"""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast, get_args

import dagster as dg

from gpu_assets.training.control import REASON_TAG, Action, Asked, Canceled, Hold, hold
from gpu_assets.training.disk import GB
from resources.events import WANTED_BYTES_TAG
from resources.platform import Platform
from sensors.runs import AD_HOC_JOB, was_asked_to_end

CHECKPOINTS = dg.AssetKey("checkpoints")
ASKED_KEY = "control"
UNDONE = (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
LOOKED_AT = 20
"""Runs and observations, newest first, among which the last that concerns training is looked for."""


def what_holds_training(instance: dg.DagsterInstance, job_name: str, pool: str) -> Hold | None:
    """Why no training run should be started now, or None."""
    return hold(pool, pool_limit(instance, pool), _newest_canceled(instance, job_name), last_asked(instance))


def pool_limit(instance: dg.DagsterInstance, pool: str) -> int | None:
    """The pool's limit, or None where nothing has set one yet."""
    limits = {found.name: found.limit for found in instance.event_log_storage.get_pool_limits()}
    return limits.get(pool)


def record_asked(
    instance: dg.DagsterInstance, action: Action, reason: str, runs: Sequence[str] = (), datasets: Sequence[str] = ()
) -> None:
    """Log what was asked as an observation of `checkpoints`."""
    event = dg.AssetObservation(
        asset_key=CHECKPOINTS,
        description=f"training: {action}" + (f" ({reason})" if reason else ""),
        metadata={ASKED_KEY: action, "reason": reason, "runs": list(runs), "datasets": list(datasets)},
    )
    instance.report_runless_asset_event(event)


def last_asked(instance: dg.DagsterInstance) -> Asked | None:
    """The last thing that was asked, or None."""
    for record in instance.fetch_observations(CHECKPOINTS, limit=LOOKED_AT).records:
        event = record.event_log_entry.asset_observation
        found = event.metadata if event is not None else {}
        if ASKED_KEY in found and found[ASKED_KEY].value in get_args(Action):
            at = datetime.fromtimestamp(record.timestamp, UTC)
            return Asked(cast(Action, found[ASKED_KEY].value), at, str(found["reason"].value))
    return None


def is_training(run: dg.DagsterRun, job_name: str) -> bool:
    """Whether the run makes checkpoints, as the job does or started by hand."""
    return run.job_name == job_name or (run.job_name == AD_HOC_JOB and CHECKPOINTS in (run.asset_selection or ()))


def what_the_disk_lacks(instance: dg.DagsterInstance, job_name: str, platform: Platform) -> str | None:
    """A sentence where the newest training run was ended by a full disk that has not enough room yet, else None.

    What must stay free is what the settings say now, not what they said to that run.
    """
    checkpoints, floor = platform.workspace.checkpoints, platform.settings.storage.min_free_gb * GB
    newest = _newest(instance, job_name)
    if newest is None or WANTED_BYTES_TAG not in newest.dagster_run.tags:
        return None
    wanted = int(newest.dagster_run.tags[WANTED_BYTES_TAG]) + floor
    free = shutil.disk_usage(checkpoints).free
    if free >= wanted:
        return None
    return (
        f"the disk of {checkpoints} is full: {free / GB:.1f} GB are free, training goes on with "
        f"{wanted / GB:.1f} GB; the run {newest.dagster_run.run_id[:8]} says for what"
    )


def _newest(instance: dg.DagsterInstance, job_name: str) -> dg.RunRecord | None:
    """The training run that was created last."""
    records = [
        record
        for job in (job_name, AD_HOC_JOB)
        for record in instance.get_run_records(dg.RunsFilter(job_name=job), limit=1 if job == job_name else LOOKED_AT)
        if is_training(record.dagster_run, job_name)
    ]
    return max(records, key=lambda record: record.create_timestamp, default=None)


def _newest_canceled(instance: dg.DagsterInstance, job_name: str) -> Canceled | None:
    """The newest training run, if it has ended before it was done and a person asked it to."""
    newest = _newest(instance, job_name)
    if newest is None or newest.dagster_run.status not in UNDONE:
        return None
    run = newest.dagster_run
    if not was_asked_to_end(instance, run):
        return None
    ended = newest.end_time if newest.end_time is not None else newest.update_timestamp.timestamp()
    return Canceled(
        run.run_id,
        created_at=newest.create_timestamp.astimezone(UTC),
        ended_at=datetime.fromtimestamp(ended, UTC),
        reason=run.tags.get(REASON_TAG, ""),
    )
