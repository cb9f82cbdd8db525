"""Fixtures of all tests: a clean environment, a home of its own, and real tiny models made once."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_assets.settings import PROJECT_ROOT, Settings, load_settings
from resources.artifacts import weights_sha256
from resources.deployed import write_deployed
from resources.platform import Platform
from resources.workspace import Workspace


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's leaks into a test, and no test writes outside its folder."""
    for variable in os.environ:
        if variable.startswith(("GPU_ASSETS_", "INFERENCE_", "DAGSTER_HOME")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("GPU_ASSETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")


@pytest.fixture
def settings() -> Settings:
    """The shipped configuration with this test's home."""
    return load_settings()


@pytest.fixture
def workspace(settings: Settings) -> Workspace:
    return Workspace(settings.home).create()


@pytest.fixture
def platform(settings: Settings, workspace: Workspace) -> Platform:
    return Platform(settings)


@pytest.fixture
def deployed(workspace: Workspace) -> Path:
    """A model that is recorded as deployed, whose checkpoint is still there; its folder on the inference host."""
    from gpu_assets.base_model.describe import init_model

    checkpoint = workspace.checkpoints / "checkpoint-5-0123abcd"
    init_model("tiny", checkpoint, 1)
    served = workspace.served_models / checkpoint.name
    shutil.copytree(checkpoint, served)
    record = {"checkpoint": checkpoint.name, "served_path": str(served), "weights_sha256": weights_sha256(served)}
    write_deployed(workspace, record)
    return served


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny preset with its manifest; read-only by convention."""
    from gpu_assets.base_model.describe import init_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    init_model("tiny", folder, seed=42)
    return folder


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody holds now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


@pytest.fixture
def hosts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shipped hosts.json with ports that are free now, as the registry in use."""
    path = write_hosts_with_free_ports(tmp_path)
    monkeypatch.setenv("GPU_ASSETS_HOSTS_FILE", str(path))
    yield path


def write_hosts_with_free_ports(folder: Path) -> Path:
    """The shipped hosts.json with ports that are free now, in this folder."""
    hosts = json.loads((PROJECT_ROOT / "hosts.json").read_text())
    dagster_port, inference_port = free_ports(2)
    hosts["hosts"]["4090"]["services"]["dagster"]["port"] = dagster_port
    hosts["hosts"]["3090"]["services"]["inference"]["port"] = inference_port
    path = folder / "hosts.json"
    path.write_text(json.dumps(hosts))
    return path
