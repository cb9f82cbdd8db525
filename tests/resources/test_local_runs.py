"""Runs of `dagster asset materialize` whose process was killed, in a real instance on disk."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from resources.local_runs import is_left_behind
from sensors.runs import AD_HOC_JOB, open_partitions

SLEEPER = """
import time
import dagster as dg

parts = dg.DynamicPartitionsDefinition(name="datasets")

@dg.asset(partitions_def=parts)
def checkpoints():
    print("begun", flush=True)
    time.sleep(60)

defs = dg.Definitions([checkpoints])
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.add_dynamic_partitions("datasets", ["a"])
        yield instance


def wait_for_start(instance: dg.DagsterInstance, process: "subprocess.Popen[bytes]") -> dg.DagsterRun:
    for _ in range(600):
        runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        if runs and instance.all_logs(runs[0].run_id, of_type=dg.DagsterEventType.STEP_START):
            return runs[0]
        assert process.poll() is None, "the command ended before its run began"
        time.sleep(0.1)
    raise AssertionError("the run did not start")


def test_a_run_holds_its_partitions_while_its_process_lives_and_no_longer(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-f", "sleeper.py", "--select", "checkpoints"]
    environment = os.environ | {"DAGSTER_HOME": str(tmp_path)}
    process = subprocess.Popen([*command, "--partition", "a"], cwd=tmp_path, env=environment)
    try:
        run = wait_for_start(instance, process)
        assert not is_left_behind(instance, run)
        assert open_partitions(instance, [AD_HOC_JOB], ["a"]) == {"a"}
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    finally:
        process.kill()
        process.wait()

    still_open = instance.get_run_by_id(run.run_id)
    assert still_open is not None and still_open.status == dg.DagsterRunStatus.STARTED
    assert is_left_behind(instance, still_open)
    assert open_partitions(instance, [AD_HOC_JOB], ["a"]) == set()


def test_a_run_of_which_nothing_is_known_is_not_left_behind(instance: dg.DagsterInstance) -> None:
    run = instance.add_run(dg.DagsterRun(job_name=AD_HOC_JOB, status=dg.DagsterRunStatus.STARTED))
    assert not is_left_behind(instance, run)
