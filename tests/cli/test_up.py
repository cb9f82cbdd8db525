"""`gpu-assets up` as it is typed, and once with everything real."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import httpx
import psutil
import pytest
from typer.testing import CliRunner

from gpu_assets.cli.home import HomeLock
from gpu_assets.cli.main import app
from gpu_assets.cli.make import drop_generated
from gpu_assets.cli.up import export_line
from gpu_assets.settings import PROJECT_ROOT, Settings, load_settings
from resources.workspace import Workspace
from tests.cli.stand_ins import is_gone, wait_until


def up(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["up", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (["hyperparams.seed"], "--set 'hyperparams.seed' is not KEY=VALUE"),
        (["=1"], "--set '=1' is not KEY=VALUE"),
        (["model_name=a", "model_name=b"], "--set gives 'model_name' twice: 'a' and 'b'"),
        (["hyperparams.sead=1"], "hyperparams.sead: unknown key"),
        (["hyperparams.seed=x"], "hyperparams.seed"),
    ],
    ids=" ".join,
)
def test_a_wrong_override_is_a_sentence_and_exit_code_2(
    hosts_file: Path, assignments: list[str], sentence: str
) -> None:
    code, output = up(*(part for assignment in assignments for part in ("--set", assignment)))

    assert code == 2
    assert sentence in output


@pytest.mark.parametrize(
    ("text", "sentence"), [("{", "is not JSON"), ('{"version": "2.0", "hosts": {}}', "version")], ids=["torn", "old"]
)
def test_a_wrong_hosts_file_is_a_sentence_and_exit_code_2(hosts_file: Path, text: str, sentence: str) -> None:
    hosts_file.write_text(text)

    code, output = up()

    assert code == 2
    assert f"{hosts_file}" in output
    assert sentence in output


def test_a_port_in_use_is_a_sentence_and_exit_code_2(hosts_file: Path) -> None:
    address = load_settings().hosts.address("dagster")

    with socket.create_server(address):
        code, output = up()

    assert code == 2
    assert f"port {address[1]}" in output
    assert "'dagster', is in use" in output


def test_a_second_instance_on_one_home_is_a_sentence_and_exit_code_2(hosts_file: Path, workspace: Workspace) -> None:
    lock = HomeLock(workspace.home)
    lock.acquire()

    code, output = up()

    lock.release()
    assert code == 2
    assert "which runs the platform on it" in output


def test_a_key_file_that_others_can_read_is_a_sentence_and_exit_code_2(hosts_file: Path, workspace: Workspace) -> None:
    keys = workspace.serving / "inference-keys.json"
    keys.write_text('{"read": "r", "admin": "a"}')
    keys.chmod(0o644)

    code, output = up()

    assert code == 2
    assert f"chmod 600 {keys}" in output


def test_equal_keys_are_a_sentence_and_exit_code_2(hosts_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_READ_KEY", "one-and-the-same")
    monkeypatch.setenv("INFERENCE_ADMIN_KEY", "one-and-the-same")

    code, output = up()

    assert code == 2
    assert "INFERENCE_READ_KEY and INFERENCE_ADMIN_KEY are equal" in output
    assert "one-and-the-same" not in output


def test_the_export_line_names_the_home_only_where_it_is_not_the_default(settings: Settings) -> None:
    default = settings.model_copy(update={"home": PROJECT_ROOT / "var"})

    assert export_line(default, {}) == f"export DAGSTER_HOME={PROJECT_ROOT}/var/dagster"
    assert export_line(settings, {}) == f"export DAGSTER_HOME={settings.home}/dagster GPU_ASSETS_HOME={settings.home}"


class Platform:
    """`gpu-assets up` in a process of its own, with what it prints."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpu_assets.cli", "up"],
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip() for line in self.process.stdout)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def says(self, words: str) -> bool:
        assert self.process.poll() is None or words in self.output, self.output
        return words in self.output

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> None:
        self.process.kill()  # the keepers then end everything else
        self.process.wait(60)
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def running(hosts_file: Path) -> Iterator[Platform]:
    platform = Platform()
    yield platform
    platform.end()


@pytest.mark.timeout(180)
def test_up_starts_everything_restarts_what_dies_and_leaves_nothing_after_ctrl_c(running: Platform) -> None:
    settings = load_settings()
    wait_until(lambda: running.says("Ctrl-C stops everything"), "everything is healthy", 120)
    assert export_line(settings, {}) in running.output
    assert httpx.get(f"{settings.hosts.url('dagster')}/server_info").status_code == 200
    assert httpx.get(f"{settings.hosts.url('inference')}/health").status_code == 200

    server = next(process for process in running.processes() if process.cmdline()[1:3] == ["-m", "serving.inference"])
    server.kill()
    wait_until(lambda: running.says("inference ended with SIGKILL and is started again, 1 of 3"), "the restart")
    started = running.processes()
    assert len(started) > 6

    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0, running.output
    wait_until(lambda: running.output.endswith("stopped by Ctrl-C"), "the last word")
    assert [process for process in started if not is_gone(process)] == []
    HomeLock(settings.home).acquire()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_ctrl_c_interrupts_is_canceled_and_its_process_is_gone(running: Platform) -> None:
    settings = load_settings()
    wait_until(lambda: running.says("Ctrl-C stops everything"), "everything is healthy", 120)
    drop_generated(settings, seed=1, count=12_000)
    with dg.DagsterInstance.from_config(str(Workspace(settings.home).dagster)) as instance:
        in_training = dg.RunsFilter(job_name="train", statuses=[dg.DagsterRunStatus.STARTED])
        wait_until(lambda: bool(instance.get_runs(in_training)), "a training run has started", 120)
        (run,) = instance.get_runs(in_training)
        started = running.processes()

        running.process.send_signal(signal.SIGINT)

        assert running.process.wait(60) == 0, running.output
        assert [process for process in started if not is_gone(process)] == []
        stopped = instance.get_run_by_id(run.run_id)
        assert stopped is not None
        assert stopped.status == dg.DagsterRunStatus.CANCELED


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_sigterm_interrupts_while_it_starts_is_canceled_once_and_is_no_failure(running: Platform) -> None:
    settings = load_settings()
    wait_until(lambda: running.says("Ctrl-C stops everything"), "everything is healthy", 120)
    drop_generated(settings, seed=1, count=3_000)
    with dg.DagsterInstance.from_config(str(Workspace(settings.home).dagster)) as instance:
        starting = dg.RunsFilter(job_name="take_in", statuses=[dg.DagsterRunStatus.STARTING])
        wait_until(lambda: bool(instance.get_runs(starting)), "a run starts", 60)
        (run,) = instance.get_runs(dg.RunsFilter(job_name="take_in"))

        running.process.send_signal(signal.SIGTERM)

        assert running.process.wait(60) == 0, running.output
        wait_until(lambda: running.output.endswith("stopped by SIGTERM"), "the last word")
        ended = [
            event.dagster_event.event_type_value
            for event in instance.all_logs(run.run_id)
            if event.dagster_event is not None and event.dagster_event.is_job_event
        ]
        assert [event for event in ended if event in ("PIPELINE_CANCELED", "PIPELINE_FAILURE")] == ["PIPELINE_CANCELED"]
