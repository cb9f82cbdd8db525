"""What is waited for, asked of a real HTTP server that answers as Dagster's webserver does."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpu_assets.cli.health import dagster_waits_for, inference_is_dead, inference_waits_for
from gpu_assets.errors import ServiceUnavailable
from gpu_assets.hosts import HostRegistry
from gpu_assets.settings import load_settings


def entry(name: str, status: str = "LOADED", error: str | None = None) -> dict[str, Any]:
    kind = {"__typename": "RepositoryLocation"} if error is None else {"__typename": "PythonError", "message": error}
    return {"name": name, "loadStatus": status, "locationOrLoadError": kind if status == "LOADED" else None}


def daemon(kind: str, healthy: bool, required: bool = True) -> dict[str, Any]:
    return {"daemonType": kind, "required": required, "healthy": healthy}


@dataclass
class Webserver:
    """Answers `health` with a status, and GraphQL with entries and daemons."""

    entries: list[dict[str, Any]] = field(default_factory=lambda: [entry("trainer"), entry("inference")])
    daemons: list[dict[str, Any]] = field(
        default_factory=lambda: [daemon("SENSOR", True), daemon("ASSET", False, False)]
    )
    workspace_error: str | None = None
    health: int = 200

    def graphql(self) -> dict[str, Any]:
        workspace: dict[str, Any] = {"__typename": "Workspace", "locationEntries": self.entries}
        if self.workspace_error is not None:
            workspace = {"__typename": "PythonError", "message": self.workspace_error}
        daemons = {"daemonHealth": {"allDaemonStatuses": self.daemons}}
        return {"data": {"workspaceOrError": workspace, "instance": daemons}}


@pytest.fixture
def registry(hosts_file: Path) -> HostRegistry:
    return load_settings().hosts


@pytest.fixture
def webserver(registry: HostRegistry) -> Iterator[Webserver]:
    state = Webserver()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(state.health if self.path == "/server_info" else 404)
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(state.graphql()).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(registry.address("dagster"), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


def test_a_service_that_does_not_listen_is_waited_for(registry: HostRegistry) -> None:
    assert inference_waits_for(registry) == f"{registry.url('inference')}/health (ConnectError)"


def test_a_service_that_answers_with_an_error_is_waited_for(registry: HostRegistry, webserver: Webserver) -> None:
    webserver.health = 503

    assert dagster_waits_for(registry) == f"{registry.url('dagster')}/server_info (status 503)"


def test_loaded_locations_and_required_daemons_are_healthy(registry: HostRegistry, webserver: Webserver) -> None:
    assert dagster_waits_for(registry) is None


def test_locations_that_still_load_are_named(registry: HostRegistry, webserver: Webserver) -> None:
    webserver.entries = [entry("trainer", "LOADING"), entry("inference")]

    assert dagster_waits_for(registry) == "code locations trainer"


def test_a_workspace_without_locations_is_not_healthy(registry: HostRegistry, webserver: Webserver) -> None:
    webserver.entries = []

    assert dagster_waits_for(registry) is not None


def test_a_location_that_failed_to_load_ends_the_wait_with_its_error(
    registry: HostRegistry, webserver: Webserver
) -> None:
    webserver.entries = [entry("trainer", error="SyntaxError: invalid syntax\n"), entry("inference")]

    with pytest.raises(ServiceUnavailable, match="code location 'trainer' did not load: SyntaxError: invalid syntax"):
        dagster_waits_for(registry)


def test_a_workspace_that_cannot_be_loaded_ends_the_wait(registry: HostRegistry, webserver: Webserver) -> None:
    webserver.workspace_error = "no such file"

    with pytest.raises(ServiceUnavailable, match="workspace.yaml could not be loaded: no such file"):
        dagster_waits_for(registry)


def test_a_required_daemon_without_heartbeat_is_waited_for(registry: HostRegistry, webserver: Webserver) -> None:
    webserver.daemons = [daemon("SENSOR", False), daemon("QUEUED_RUN_COORDINATOR", False), daemon("ASSET", True)]

    assert dagster_waits_for(registry) == "daemons QUEUED_RUN_COORDINATOR, SENSOR"


@pytest.fixture
def ready(registry: HostRegistry) -> Iterator[dict[str, Any]]:
    """What the inference server answers to /ready: `status` and `body`."""
    answer: dict[str, Any] = {"status": 200, "body": {}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"])
            self.end_headers()
            self.wfile.write(json.dumps(answer["body"]).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(registry.address("inference"), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield answer
    server.shutdown()
    server.server_close()


def test_a_server_whose_engine_has_stopped_is_dead(registry: HostRegistry, ready: dict[str, Any]) -> None:
    error = {"code": "engine_stopped", "message": "the engine of x has stopped; POST /models/reload loads it"}
    ready.update(status=503, body={"error": error})

    assert inference_is_dead(registry) == "the engine of x has stopped"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"status": "ready"}),
        (503, {"error": {"code": "no_model", "message": "x"}}),
        (503, {"error": {"code": "model_loading", "message": "x"}}),
        (503, {}),
        (503, []),
        (500, {"error": {"code": "engine_stopped", "message": "x"}}),
    ],
)
def test_a_server_that_serves_or_loads_or_waits_for_a_model_is_not_dead(
    registry: HostRegistry, ready: dict[str, Any], status: int, body: Any
) -> None:
    ready.update(status=status, body=body)

    assert inference_is_dead(registry) is None


def test_a_server_that_does_not_listen_is_not_dead_here_since_its_process_is_watched(registry: HostRegistry) -> None:
    assert inference_is_dead(registry) is None
