"""Dagster runs across a stop of the platform.

A run that the platform's stop interrupts is canceled by it and not failed, and a run whose process was
killed together with the platform must not stay `STARTED` for ever: the sensors leave alone what an open
run covers, and Dagster's run monitoring cannot see that a local process is gone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from resources.local_runs import LAUNCHED_TAG, is_left_behind
from resources.workspace import Workspace

OPEN = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
STOPPED = "The platform was stopped; what this run covers is planned again at its next start."
LEFT = "The platform ended before this run did; what it covers is planned again."


def cancel_open_runs(workspace: Workspace) -> int:
    """Mark open runs as canceled, before their processes are interrupted; their number.

    Not as being canceled: a process that is interrupted while it still imports, as a run's first seconds are,
    says nothing any more, and the code server then reports whatever has not ended as failed. What has ended is
    left as it is, by the code server and by the run's own process.
    """
    return _close(workspace, STOPPED)


def close_left_runs(workspace: Workspace) -> int:
    """Mark open runs as canceled, when none of their processes is left; their number."""
    return _close(workspace, LEFT)


def _close(workspace: Workspace, why: str) -> int:
    with _instance(workspace) as instance:
        runs = _open_runs(instance)
        for run in runs:
            instance.report_run_canceled(run, why)
    return len(runs)


def _open_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    runs = instance.get_runs(dg.RunsFilter(statuses=OPEN))
    return [run for run in runs if LAUNCHED_TAG in run.tags or is_left_behind(instance, run)]


@contextmanager
def _instance(workspace: Workspace) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(workspace.dagster)) as instance:
        yield instance
