"""Runs whose process is gone: what Dagster cannot see of `dagster asset materialize`.

Such a run has the process of the command that started it, and no launcher watches it. When the
terminal is closed or the process is killed, the run stays open for ever.
"""

import os
import signal

import dagster as dg
import psutil

LAUNCHED_TAG = ".dagster/grpc_info"
"""Set on a run by the launcher, so not on runs of `dagster asset materialize`, which have their own process."""
CLOCK_SLACK_S = 2.0


def is_left_behind(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run that has not ended was started by a command whose process does not live any more.

    False where that cannot be known: of a run that has not said yet which process it has, and where the
    instance is shared between machines.
    """
    from dagster._core.storage.runs import SqliteRunStorage  # SQLAlchemy, only where an instance is open anyway.

    if LAUNCHED_TAG in run.tags or run.is_finished or not isinstance(instance.run_storage, SqliteRunStorage):
        return False
    found = _process_of(instance, run.run_id)
    return found is not None and not _lives(*found)


def interrupt(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Interrupt the process of a run that no launcher knows, as Ctrl-C does; whether there was one."""
    found = _process_of(instance, run.run_id)
    if found is None or not _lives(*found):
        return False
    os.kill(found[0], signal.SIGINT)
    return True


def _process_of(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """The process that executes the run's steps, and when it said so, in seconds since the epoch."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None else None
        if pid is not None:
            return int(str(pid.value)), entry.timestamp
    return None


def _lives(pid: int, seen_at: float) -> bool:
    """Whether it is still that process: a later one may have got its number."""
    try:
        process = psutil.Process(pid)
        is_older = float(process.create_time()) <= seen_at + CLOCK_SLACK_S
        return is_older and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
