"""Runs across a stop of the platform, in a real instance on disk."""

from collections.abc import Iterator

import dagster as dg
import pytest

from gpu_assets.cli.home import link_instance_config
from gpu_assets.cli.runs import cancel_open_runs, close_left_runs
from resources.local_runs import LAUNCHED_TAG
from resources.workspace import Workspace

Status = dg.DagsterRunStatus


@pytest.fixture
def instance(workspace: Workspace) -> Iterator[dg.DagsterInstance]:
    link_instance_config(workspace)
    with dg.DagsterInstance.from_config(str(workspace.dagster)) as instance:
        yield instance


def add_run(instance: dg.DagsterInstance, status: Status, *, launched: bool = True) -> str:
    tags = {LAUNCHED_TAG: "{}"} if launched else {}
    return instance.add_run(dg.DagsterRun(job_name="train", status=status, tags=tags)).run_id


def status_of(instance: dg.DagsterInstance, run_id: str) -> Status:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


@pytest.mark.parametrize("status", [Status.STARTING, Status.STARTED, Status.CANCELING])
def test_runs_that_a_stop_interrupts_are_canceled_once(
    workspace: Workspace, instance: dg.DagsterInstance, status: Status
) -> None:
    run_id = add_run(instance, status)

    assert cancel_open_runs(workspace) == [run_id]
    assert status_of(instance, run_id) == Status.CANCELED
    assert close_left_runs(workspace) == []


def test_a_run_that_says_it_failed_after_the_stop_canceled_it_has_not(
    workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    stopped, failed_before = add_run(instance, Status.STARTING), add_run(instance, Status.FAILURE)
    canceled = cancel_open_runs(workspace)
    run = instance.get_run_by_id(stopped)
    assert run is not None
    instance.report_run_failed(run)

    assert close_left_runs(workspace, canceled) == [stopped]
    assert status_of(instance, stopped) == Status.CANCELED
    assert status_of(instance, failed_before) == Status.FAILURE


@pytest.mark.parametrize("status", [Status.STARTING, Status.STARTED, Status.CANCELING])
def test_a_run_without_a_process_is_closed_as_canceled(
    workspace: Workspace, instance: dg.DagsterInstance, status: Status
) -> None:
    run_id = add_run(instance, status)

    assert close_left_runs(workspace) == [run_id]
    assert status_of(instance, run_id) == Status.CANCELED


@pytest.mark.parametrize("status", [Status.NOT_STARTED, Status.SUCCESS, Status.FAILURE])
def test_runs_that_wait_or_have_ended_are_left_alone(
    workspace: Workspace, instance: dg.DagsterInstance, status: Status
) -> None:
    run_id = add_run(instance, status)

    assert close_left_runs(workspace) == []
    assert status_of(instance, run_id) == status


def test_a_run_of_the_command_line_is_left_alone(workspace: Workspace, instance: dg.DagsterInstance) -> None:
    run_id = add_run(instance, Status.STARTED, launched=False)

    assert close_left_runs(workspace) == []
    assert status_of(instance, run_id) == Status.STARTED
