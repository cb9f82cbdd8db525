"""The server as a process: what it prints, when it refuses to start, and that it ends when told."""

import json
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gpu_assets.settings import PROJECT_ROOT
from resources.keys import KEY_FILE
from resources.services import InferenceClient
from serving.inference.__main__ import main
from tests.serving.inference.support import START_TIMEOUT_S, Models, Server, change_json, ready_server, start_server

MESSAGE = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a fresh home: no model, no keys in the environment."""
    with ready_server(tmp_path_factory.mktemp("empty"), read_key=None, admin_key=None) as started:
        yield started


def generated_keys(server: Server) -> dict[str, str]:
    keys: dict[str, str] = json.loads((server.home / "serving" / KEY_FILE).read_text())
    return keys


def test_generated_keys_are_kept_in_a_private_file_whose_path_is_printed(empty: Server) -> None:
    path = empty.home / "serving" / KEY_FILE
    output = empty.output.read_text()
    assert f"keys: {path}" in output
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(key in output for key in generated_keys(empty).values())


def test_a_server_without_a_model_is_healthy_and_not_ready(empty: Server) -> None:
    health = empty.request("GET", "/health", key=None)
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    key = generated_keys(empty)["read"]
    for response in (
        empty.request("GET", "/ready", key=None),
        empty.request("POST", "/v1/chat/completions", key=key, json={"model": "champion", "messages": [MESSAGE]}),
    ):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "no_model"
        assert "no model is deployed: champion points at nothing" in response.json()["error"]["message"]
    assert empty.request("GET", "/models/info", key=key).json()["loaded"] is False
    assert empty.request("GET", "/v1/models", key=key).json()["data"] == []


def test_the_first_deployment_makes_it_ready(empty: Server, models: Models) -> None:
    with InferenceClient("inference server", empty.url, generated_keys(empty)["admin"]) as client:
        client.reload(models.third)
        client.wait_ready(1, "/ready")
        assert client.chat([MESSAGE], model="champion", max_tokens=2).model == "third"


def test_a_signal_ends_it_with_an_answer_under_way(empty: Server) -> None:
    """Runs after the others: the server of this module does not come back."""
    body = {"model": "champion", "messages": [MESSAGE], "stream": True}
    headers = {"X-API-Key": generated_keys(empty)["read"]}
    with httpx.stream(
        "POST", f"{empty.url}/v1/chat/completions", json=body, headers=headers, trust_env=False
    ) as answer:
        next(answer.iter_lines())
        empty.process.send_signal(signal.SIGINT)
        assert empty.process.wait(timeout=30) == 0
    assert "Traceback" not in empty.output.read_text()


def test_a_port_in_use_is_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start_server(tmp_path, "--port", str(port))
    assert server.process.wait(timeout=START_TIMEOUT_S) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in server.output.read_text()


@pytest.mark.parametrize("port", ["99999", "65536", "-1", "many", "1" * 5000])
def test_what_is_no_port_is_an_error_of_the_command_line(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--port", port])
    assert ended.value.code == 2
    assert f"argument --port: {port!r} is no port: 0 to 65535" in capsys.readouterr().err


def test_a_refused_model_is_a_sentence_and_exit_code_2(tmp_path: Path, models: Models) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(models.second, folder)
    change_json(folder / "manifest.json", weights_sha256="0" * 64)
    server = start_server(tmp_path, "--model", str(folder))
    assert server.process.wait(timeout=START_TIMEOUT_S) == 2
    output = server.output.read_text()
    assert re.search(
        rf"inference server: {folder}: its weights hash is [0-9a-f]{{64}}, its manifest says 0{{64}}", output
    )
    assert "Traceback" not in output


def test_a_model_that_does_not_say_what_was_recorded_is_a_sentence_and_exit_code_2(
    tmp_path: Path, models: Models
) -> None:
    folder = tmp_path / "another"
    shutil.copytree(models.second, folder)
    prompt = {"prompt_ids": [60, 61, 62], "next_tokens": [[70, -0.001]]}
    change_json(folder / "manifest.json", fingerprint={"prompts": [prompt]})
    server = start_server(tmp_path, "--model", str(folder))
    assert server.process.wait(timeout=START_TIMEOUT_S) == 2
    output = server.output.read_text()
    assert f"inference server: {folder} is not served: its next tokens after the smoke prompts differ" in output
    assert "Traceback" not in output


def test_no_address_is_in_the_sources() -> None:
    for path in (PROJECT_ROOT / "serving" / "inference").glob("*.py"):
        assert not re.search(r"\d+\.\d+\.\d+\.\d+|localhost|\b8765\b", path.read_text()), path
