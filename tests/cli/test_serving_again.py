"""The inference server is killed under its real supervisor, and serves the recorded champion again by itself."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from rich.console import Console

from gpu_assets.cli.services import platform_children
from gpu_assets.cli.supervisor import Supervisor
from gpu_assets.settings import Settings, load_settings
from resources.artifacts import weights_sha256
from resources.workspace import Workspace
from tests.cli.stand_ins import wait_until


@pytest.fixture
def settings(hosts_file: Path) -> Settings:
    return load_settings()


@pytest.fixture
def platform(settings: Settings, deployed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """The supervisor with the inference server alone, as `gpu-assets up` starts it."""
    monkeypatch.setattr("gpu_assets.cli.supervisor.RESTART_PAUSE_S", 0)
    inference, _ = platform_children(settings, {"serving.cache_tokens": "4096"})
    with Supervisor(settings, {}, Console(file=io.StringIO()), [inference]) as started:
        started.wait_healthy(60)
        wait_until_loaded(started)
        yield started


def ready(platform: Supervisor) -> httpx.Response:
    return httpx.get(f"{platform.urls['inference']}/ready", trust_env=False, timeout=10)


def wait_until_loaded(platform: Supervisor) -> None:
    """A server is healthy before its model is loaded."""
    wait_until(lambda: "model_loading" not in ready(platform).text, "the recorded model is served, or none is", 60)


def server_process() -> psutil.Process:
    for process in psutil.Process().children(recursive=True):
        if process.cmdline()[1:3] == ["-m", "serving.inference"]:
            return process
    raise AssertionError("no server runs")


def kill_and_wait(platform: Supervisor) -> None:
    killed = server_process()
    killed.kill()
    wait_until(lambda: platform.children[0].ended() is not None, "the server has ended")
    platform.watch_once()
    platform.wait_healthy(60)
    wait_until_loaded(platform)
    assert server_process() != killed


def test_a_killed_server_comes_back_with_the_recorded_champion_and_then_without_its_folders(
    platform: Supervisor, workspace: Workspace, deployed: Path
) -> None:
    recorded = weights_sha256(deployed)
    assert ready(platform).json()["weights_sha256"] == recorded

    kill_and_wait(platform)
    assert ready(platform).json()["weights_sha256"] == recorded

    shutil.rmtree(deployed)
    kill_and_wait(platform)
    assert ready(platform).json()["weights_sha256"] == recorded
    assert deployed.is_dir()

    shutil.rmtree(deployed)
    shutil.rmtree(workspace.checkpoints / deployed.name)
    kill_and_wait(platform)
    refused = ready(platform)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "no_model"
    assert f"checkpoints/{deployed.name} has no manifest.json" in refused.json()["error"]["message"]
    assert "the server starts without a model" in platform.children[0].spec.log_file.read_text()
