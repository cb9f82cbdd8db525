"""Dagster runs across a stop of the platform.

A run that the platform's stop interrupts is canceled by it and not failed, and a run whose process was
killed together with the platform must not stay `STARTED` for ever: the sensors leave alone what an open
run covers, and Dagster's run monitoring cannot see that a local process is gone.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from resources.local_runs import LAUNCHED_TAG, is_left_behind
from resources.workspace import Workspace

OPEN = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
STOPPED = "The platform was stopped; what this run covers is planned again at its next start."
LEFT = "The platform ended before this run did; what it covers is planned again."


def cancel_open_runs(workspace: Workspace) -> list[str]:
    """Mark open runs as canceled, before their processes are interrupted; their ids.

    Not as being canceled: a process that is interrupted while it still imports, as a run's first seconds are,
    says nothing any more, and the code server then reports whatever has not ended as failed. What has ended is
    left as it is, by the code server and by the run's own process.
    """
    with _instance(workspace) as instance:
        return _cancel(instance, _open_runs(instance), STOPPED)


def close_left_runs(workspace: Workspace, canceled: Collection[str] = ()) -> list[str]:
    """Mark open runs as canceled, when none of their processes is left; their ids.

    Args:
        canceled: ids of what `cancel_open_runs` marked. A process that had not begun its run by then takes the mark
            back, and says that it failed once it is interrupted; it is marked again.
    """
    with _instance(workspace) as instance:
        failed = _failed(instance, canceled) if canceled else []
        return _cancel(instance, failed, STOPPED) + _cancel(instance, _open_runs(instance), LEFT)


def _cancel(instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun], why: str) -> list[str]:
    for run in runs:
        instance.report_run_canceled(run, why)
    return [run.run_id for run in runs]


def _failed(instance: dg.DagsterInstance, run_ids: Collection[str]) -> Sequence[dg.DagsterRun]:
    return instance.get_runs(dg.RunsFilter(run_ids=list(run_ids), statuses=[dg.DagsterRunStatus.FAILURE]))


def _open_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    runs = instance.get_runs(dg.RunsFilter(statuses=OPEN))
    return [run for run in runs if LAUNCHED_TAG in run.tags or is_left_behind(instance, run)]


@contextmanager
def _instance(workspace: Workspace) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(workspace.dagster)) as instance:
        yield instance
