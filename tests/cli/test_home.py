"""The home's lock and the instance's configuration."""

import os
import subprocess
import sys

import pytest

from gpu_assets.cli.home import HomeLock, link_instance_config
from gpu_assets.errors import InUse
from gpu_assets.settings import PROJECT_ROOT
from resources.workspace import Workspace


def test_a_second_platform_on_one_home_is_refused_with_the_holders_pid(workspace: Workspace) -> None:
    HomeLock(workspace.home).acquire()

    with pytest.raises(InUse, match=rf"is held by process {os.getpid()}, which runs the platform on it; stop that"):
        HomeLock(workspace.home).acquire()


def test_a_lock_that_is_given_up_can_be_taken(workspace: Workspace) -> None:
    lock = HomeLock(workspace.home)
    lock.acquire()
    lock.release()

    HomeLock(workspace.home).acquire()


def test_a_killed_holder_leaves_no_lock_behind(workspace: Workspace) -> None:
    program = (
        "import os, pathlib, sys; from gpu_assets.cli.home import HomeLock; "
        "HomeLock(pathlib.Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(workspace.home)], cwd=PROJECT_ROOT, check=False)

    HomeLock(workspace.home).acquire()


def test_the_repositorys_configuration_is_linked_again_when_the_link_is_stale(workspace: Workspace) -> None:
    link = workspace.dagster / "dagster.yaml"
    link.symlink_to(workspace.home / "gone.yaml")

    assert link_instance_config(workspace) is None
    assert link.resolve() == PROJECT_ROOT / "dagster.yaml"


def test_a_configuration_of_the_users_own_is_kept_and_mentioned(workspace: Workspace) -> None:
    own = workspace.dagster / "dagster.yaml"
    own.write_text("telemetry: {enabled: false}\n")

    note = link_instance_config(workspace)

    assert note is not None
    assert str(own) in note
    assert own.read_text() == "telemetry: {enabled: false}\n"
