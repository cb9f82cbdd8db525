"""The server does what its OpenAPI document says, whatever is sent to it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_assets.settings import PROJECT_ROOT
from tests.serving.inference.support import (
    ADMIN_KEY,
    CHAT,
    VALID,
    Models,
    Server,
    ready_server,
)

HOOKS = "tests.serving.inference.document_hooks"
ARGUMENTS = (
    "--phases=coverage,fuzzing",
    "--no-shrink",
    "--continue-on-failure",
    "--exclude-checks=positive_data_acceptance",  # what a schema cannot say: which models there are, which folders
    "--exclude-path=/models/undeploy",  # without a champion the others answer 503
    "--warnings=off",
    "--request-timeout=20",
    "--report=json",
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Iterator[Server]:
    """A server of its own: what is sent to it may change what it serves."""
    with ready_server(tmp_path_factory.mktemp("fuzzed"), "--model", str(models.first)) as started:
        yield started


def fuzz(server: Server, folder: Path, num_examples: int, seed: int) -> dict[str, Any]:
    """The report of `schemathesis run` over the server's own document."""
    config, report, document = (folder / name for name in ("schemathesis.toml", "report.json", "openapi.json"))
    config.write_text(
        f'[auth.openapi.bearer]\nbearer = "{ADMIN_KEY}"\n[auth.openapi.header]\napi_key = "{ADMIN_KEY}"\n'
    )
    document.write_text(server.request("GET", "/openapi.json").text)
    amount = [f"--max-examples={num_examples}", f"--seed={seed}", f"--report-json-path={report}"]
    command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run", str(document)]
    finished = subprocess.run(
        [*command, f"--url={server.url}", *amount, *ARGUMENTS],
        cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    told: dict[str, Any] = json.loads(report.read_text())
    return told


def check(server: Server, told: dict[str, Any], num_cases: int) -> None:
    assert (told["complete"], told["failures"], told["operations"]["tested"]) == (
        True,
        [],
        told["operations"]["selected"],
    )
    assert told["test_cases"]["generated"] >= num_cases
    assert "Traceback" not in server.output.read_text()
    assert server.request("POST", CHAT, json=VALID).status_code == 200


@pytest.mark.timeout(300)
def test_every_answer_is_one_that_the_document_declares(fuzzed: Server, tmp_path: Path) -> None:
    check(fuzzed, fuzz(fuzzed, tmp_path, num_examples=10, seed=1), num_cases=1000)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3])
def test_every_answer_to_many_more_requests_is_declared_too(seed: int, fuzzed: Server, tmp_path: Path) -> None:
    check(fuzzed, fuzz(fuzzed, tmp_path, num_examples=300, seed=seed), num_cases=5000)


def test_the_document_names_both_ways_to_send_a_key_and_what_needs_none(server: Server) -> None:
    document = server.request("GET", "/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {(each["type"], each.get("scheme"), each.get("name")) for each in schemes.values()} == {
        ("http", "bearer", None),
        ("apiKey", None, "X-API-Key"),
    }
    either = [{name: []} for name in schemes]
    for path, operations in document["paths"].items():
        answer = server.request(next(iter(operations)).upper(), path, key=None)
        wanted = either if answer.status_code == 401 else []
        assert all(operation["security"] == wanted for operation in operations.values()), path


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_the_document_names_the_stream_beside_the_answer(path: str, server: Server) -> None:
    document = server.request("GET", "/openapi.json").json()
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    assert "ChatCompletionChunk" in document["components"]["schemas"]


def test_every_reference_of_the_document_leads_somewhere(server: Server) -> None:
    text = server.request("GET", "/openapi.json").text
    schemas = set(json.loads(text)["components"]["schemas"])
    assert set(re.findall(r'"\$ref":"#/components/schemas/(\w+)"', text)) <= schemas


def test_a_parameter_that_is_supported_at_its_default_only_says_so(server: Server) -> None:
    schemas = server.request("GET", "/openapi.json").json()["components"]["schemas"]
    chat, completion = (schemas[name]["properties"] for name in ("ChatCompletionRequest", "CompletionRequest"))
    assert [chat[name]["enum"] for name in ("tools", "store", "tool_choice")] == [
        [None, []],
        [None, False],
        [None, "none", "auto"],
    ]
    assert completion["best_of"]["enum"] == [None, 1]
