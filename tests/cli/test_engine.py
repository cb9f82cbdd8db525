"""`gpu-assets engine`: installing vLLM is printed first, and refused where it could not run."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpu_assets.cli import engine
from gpu_assets.cli.engine import VLLM_VERSION, engine_app, install_commands, installed_version, problems
from gpu_assets.settings import Settings, load_settings
from serving.inference.management import Gpu, Gpus

A_GPU = Gpus(
    available=True,
    device_count=1,
    gpus=[
        Gpu(
            index=0,
            name="NVIDIA GeForce RTX 3090",
            memory_total_bytes=24 * 2**30,
            memory_used_bytes=0,
            memory_free_bytes=24 * 2**30,
            utilization_percent=0,
            temperature_celsius=30,
            power_watts=20.0,
            power_limit_watts=350.0,
        )
    ],
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPU_ASSETS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings()


def test_the_commands_are_printed_and_nothing_is_made(home: Path) -> None:
    done = CliRunner().invoke(engine_app, ["install", "vllm"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"{sys.executable} -m venv {home}/engines/vllm",
        f"{home}/engines/vllm/bin/python -m pip install vllm=={VLLM_VERSION}",
    ]
    assert list(home.iterdir()) == []


def test_without_a_gpu_nothing_is_installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "gpus", lambda: Gpus(available=False, why="no driver"))
    done = CliRunner().invoke(engine_app, ["install", "vllm", "--run"])
    assert done.exit_code == 2
    assert "no GPU" in done.stderr
    assert list(home.iterdir()) == []


def test_without_room_on_the_disk_nothing_is_installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "gpus", lambda: A_GPU)
    monkeypatch.setattr(engine, "VLLM_DISK_GB", 10**9)
    done = CliRunner().invoke(engine_app, ["install", "vllm", "--run"])
    assert done.exit_code == 2
    assert "GB are free under" in done.stderr


def test_a_step_that_fails_ends_the_installation(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "gpus", lambda: A_GPU)
    monkeypatch.setattr(engine, "VLLM_DISK_GB", 0)
    monkeypatch.setattr(engine, "install_commands", lambda venv: [["false"], ["touch", str(home / "went-on")]])
    done = CliRunner().invoke(engine_app, ["install", "vllm", "--run"])
    assert done.exit_code == 1
    assert not (home / "went-on").exists()


def test_what_is_installed_is_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "gpus", lambda: A_GPU)
    (home / "engines/vllm/lib/python3.12/site-packages/vllm-0.33.0.dist-info").mkdir(parents=True)
    done = CliRunner().invoke(engine_app, ["show"])
    assert done.stdout.splitlines()[:2] == ["serving.engine: hf", "GPU: NVIDIA GeForce RTX 3090, 25.8 GB"]
    assert "vLLM: 0.33.0, in" in done.stdout


def test_the_first_command_makes_a_virtual_environment(tmp_path: Path) -> None:
    make, install = install_commands(tmp_path / "venv")
    subprocess.run([*make, "--without-pip"], check=True, timeout=60)
    assert Path(install[0]).exists()
    assert installed_version(tmp_path / "venv") is None


def test_where_all_is_well_there_is_no_problem(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "gpus", lambda: A_GPU)
    monkeypatch.setattr(engine, "VLLM_DISK_GB", 0)
    assert problems(settings) == []
