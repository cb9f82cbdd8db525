"""A server answers while its first model loads, ends when told meanwhile, and ends itself where only that helps."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from gpu_assets.settings import PROJECT_ROOT
from tests.serving.inference.support import CHAT, VALID, Models, Server, error_of, start_server

PATIENCE_S = 60


@pytest.fixture
def endless(tmp_path: Path, models: Models) -> Path:
    """A folder whose weights, which take no room, are read for longer than any test, in a thread."""
    folder = tmp_path / "endless"
    shutil.copytree(models.plain, folder)
    os.truncate(folder / "model.safetensors", 2**40)
    return folder


def write_vllm(home: Path, lines: str) -> None:
    """What is started as vLLM, under the settings' own path."""
    program = home / "engines" / "vllm" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)


def children_of(server: Server) -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process(server.process.pid).children(recursive=True)
    return children


def wait_until_asked_of_vllm(server: Server, home: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (home / "asked").exists():
        assert time.monotonic() < deadline, server.output.read_text()
        time.sleep(0.05)


def test_health_answers_while_a_thread_loads_and_sigterm_ends_the_process(tmp_path: Path, endless: Path) -> None:
    server = start_server(tmp_path, "--model", str(endless))
    try:
        assert server.request("GET", "/health", key=None).status_code == 200
        for response in (server.request("GET", "/ready", key=None), server.request("POST", CHAT, json=VALID)):
            assert (response.status_code, error_of(response)["code"]) == (503, "model_loading")
            assert int(response.headers["retry-after"]) >= 1
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
    finally:
        server.stop()


def test_vllm_that_is_starting_is_gone_with_the_server(tmp_path: Path, models: Models) -> None:
    home = tmp_path / "home"
    write_vllm(home, f"touch {home}/asked; exec sleep 600")
    server = start_server(tmp_path, "--model", str(models.plain), serving={"engine": "vllm"})
    try:
        wait_until_asked_of_vllm(server, home)
        assert error_of(server.request("GET", "/ready", key=None))["code"] == "model_loading"
        started = children_of(server)
        assert any(process.name() == "sleep" for process in started)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0
        assert not any(process.is_running() and process.status() != "zombie" for process in started)
    finally:
        server.stop()


def test_a_champion_that_this_process_cannot_serve_again_ends_it(tmp_path: Path, models: Models) -> None:
    home = tmp_path / "home"
    stand_in = f"{sys.executable} -m tests.serving.inference.vllm_stand_in"
    write_vllm(
        home,
        f"[ -e {home}/broken ] && exit 3\n"
        f'for last; do :; done; cd {PROJECT_ROOT}; PYTHONPATH={PROJECT_ROOT} exec {stand_in} "$2" "$last"',
    )
    server = start_server(tmp_path, "--model", str(models.plain), serving={"engine": "vllm"})
    try:
        server.wait_loaded()
        assert server.request("GET", "/ready", key=None).status_code == 200
        (home / "broken").touch()
        for process in children_of(server):
            if "tests.serving.inference.vllm_stand_in" in process.cmdline():
                process.kill()
        assert server.process.wait(timeout=PATIENCE_S) == 1
        output = server.output.read_text()
        assert f"the server ends: {models.plain.name} is not served again after 3 tries" in output
        assert "start it again" in output.splitlines()[-1]
    finally:
        server.stop()
