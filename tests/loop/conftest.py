"""A whole platform: real sensors in a real Dagster daemon, a real inference server, a home of its own."""

import os
import time
from collections.abc import Callable, Iterator

import dagster as dg
import pytest
from rich.console import Console

from gpu_assets.cli.supervisor import Supervisor
from gpu_assets.settings import Settings, load_settings
from tests.conftest import write_hosts_with_free_ports

OVERRIDES = {
    "hyperparams.batch_size": "32",
    "hyperparams.save_steps": "10",
    "hyperparams.max_rows_per_run": "100000",
    "evaluation.level": "1",
}


class RunningPlatform:
    """A platform that is up, and how to wait for it."""

    def __init__(self, supervisor: Supervisor, instance: dg.DagsterInstance) -> None:
        self.supervisor = supervisor
        self.instance = instance
        self.settings: Settings = supervisor.settings
        self.workspace = supervisor.workspace

    def materialized(self, asset: str) -> set[str]:
        return set(self.instance.get_materialized_partitions(dg.AssetKey(asset)))

    def wait(self, what: str, is_true: Callable[[], bool], seconds: float = 240) -> None:
        """Look until it is true; the time is a bound for a hanging test and no promise of speed."""
        deadline = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s; {self.describe()}"
            self.supervisor.watch_once()
            time.sleep(0.2)

    def describe(self) -> str:
        runs = [f"{run.job_name} {run.status.value}" for run in self.instance.get_runs(limit=10)]
        log = (self.workspace.logs / "dagster.log").read_text(errors="replace")[-2000:]
        return f"newest runs: {runs}; log: {log}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    folder = tmp_path_factory.mktemp("loop")
    with pytest.MonkeyPatch.context() as patch:
        for variable in os.environ:
            if variable.startswith(("GPU_ASSETS_", "INFERENCE_", "DAGSTER_HOME")):
                patch.delenv(variable)
        patch.setenv("GPU_ASSETS_HOME", str(folder / "home"))
        patch.setenv(
            "OMP_NUM_THREADS", "1"
        )  # threads that wait for each other on a busy machine are forty times slower
        patch.setenv("GPU_ASSETS_HOSTS_FILE", str(write_hosts_with_free_ports(folder)))
        settings = load_settings(OVERRIDES)
        with Supervisor(settings, OVERRIDES, Console(quiet=True)) as supervisor:
            supervisor.wait_healthy(120)
            with dg.DagsterInstance.from_config(str(supervisor.workspace.dagster)) as instance:
                yield RunningPlatform(supervisor, instance)
