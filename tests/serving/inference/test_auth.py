"""Deny by default: which key opens which endpoint, however its path is written."""

import socket
from urllib.parse import quote, unquote

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gpu_assets.settings import Settings
from resources.keys import InferenceKeys
from serving.inference.app import create_app
from tests.serving.inference.support import (
    ADMIN_KEY,
    CHAT,
    COMPLETIONS,
    READ_KEY,
    VALID,
    Models,
    ScriptedEngine,
    Server,
    error_of,
    run,
)

OPEN = [("GET", "/health"), ("GET", "/ready"), ("GET", "/version")]
READ = [
    ("POST", CHAT),
    ("POST", COMPLETIONS),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/champion"),
    ("GET", "/models"),
    ("GET", "/models/active"),
    ("GET", "/models/info"),
    ("GET", "/models/pool"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
]
ADMIN = [
    ("POST", "/models/pool/load"),
    ("POST", "/models/pool/unload"),
    ("POST", "/models/register"),
    ("POST", "/models/reload"),
    ("POST", "/models/set_active"),
    ("POST", "/models/undeploy"),
]
ADMIN_QUESTIONS = [("GET", "/gpu"), ("GET", "/system")]


def test_the_tables_of_these_tests_hold_every_endpoint(server: Server) -> None:
    paths = server.request("GET", "/openapi.json").json()["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    undocumented = {("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/v1/models/champion")}
    assert documented - {("GET", "/v1/models/{model_id}")} == {*OPEN, *READ, *ADMIN, *ADMIN_QUESTIONS} - undocumented


@pytest.mark.parametrize(
    ("method", "path"), [*READ, *ADMIN, *ADMIN_QUESTIONS, ("GET", "/nowhere"), ("DELETE", "/models/info")]
)
@pytest.mark.parametrize("key", [None, "", "wrong", READ_KEY[:-1], READ_KEY + "x", "schlüssel"])
def test_without_a_valid_key_everything_is_401(method: str, path: str, key: str | None, server: Server) -> None:
    headers = {} if key is None else {"X-API-Key": key.encode()}
    response = server.request(method, path, key=None, headers=headers, content=b"{")
    assert response.status_code == 401
    assert error_of(response)["code"] == "invalid_api_key"


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_health_readiness_and_versions_need_no_key(method: str, path: str, server: Server) -> None:
    assert server.request(method, path, key=None).status_code == 200


@pytest.mark.parametrize(("method", "path"), READ)
@pytest.mark.parametrize("headers", [{"X-API-Key": READ_KEY}, {"Authorization": f"bearer {ADMIN_KEY}"}])
def test_either_key_reads_in_either_header(method: str, path: str, headers: dict[str, str], server: Server) -> None:
    bodies = {CHAT: VALID, COMPLETIONS: {"model": "champion", "prompt": "x", "max_tokens": 1}}
    body = {"json": bodies[path]} if method == "POST" else {}
    assert server.request(method, path, key=None, headers=headers, **body).status_code == 200


@pytest.mark.parametrize(("method", "path"), [*ADMIN, *ADMIN_QUESTIONS])
def test_the_read_key_changes_nothing(method: str, path: str, server: Server) -> None:
    response = server.request(method, path, key=READ_KEY, json={})
    assert response.status_code == 403
    assert error_of(response)["code"] == "admin_only"


@pytest.mark.parametrize(("method", "path"), ADMIN)
def test_the_admin_key_gets_as_far_as_the_body(method: str, path: str, server: Server) -> None:
    assert server.request(method, path, key=ADMIN_KEY, json={}).status_code == 400


ODD_PATHS = [
    "/models/%72eload",
    "/%6d%6f%64%65%6c%73/%72%65%6c%6f%61%64",
    "/models%2freload",
    "/models/reload%0a",
    "/models/reload%0A",
    "/models/reload%0d%0a",
    "/models/reload%00",
    "/models/reload%20",
    "/models/reload/",
    "//models/reload",
    "/./models/reload",
    "/health/../models/reload",
    "/health/%2e%2e/models/reload",
    "/models/reload?/health",
    "/models/reload#/health",
    "/models/reload;/health",
    "/MODELS/reload",
    "http://host/models/reload",
    "http://host/models/%72eload",
    "http://health/models/reload",
    "/gpu%0a",
    "*",
]


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("target", ODD_PATHS)
def test_no_way_to_write_a_path_gives_the_read_key_more(method: str, target: str, server: Server) -> None:
    """Over a socket: clients tidy what they are given."""
    host, port = server.url.removeprefix("http://").split(":")
    request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
    for key, statuses in ((None, {401}), (READ_KEY, {403, 404})):
        with socket.create_connection((host, int(port)), timeout=30) as client:
            given = "" if key is None else f"X-API-Key: {key}\r\n"
            client.sendall(f"{request}{given}\r\n{{}}".encode())
            assert int(client.recv(65536).split(b" ")[1]) in statuses


PARTS = [
    *("/", "//", "%2f", "models", "reload", "pool", "load", "unload", "undeploy", "register", "set_active", "gpu"),
    *("system", "%0a", "%0d", "%00", "%20", "..", ".", "%2e", ";", "v1", "health", "%72", "e", "load", "%ff", "é"),
]
paths = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=2)), max_size=8).map("".join)
admin_paths = st.sampled_from([path for _, path in [*ADMIN, *ADMIN_QUESTIONS]])
ends = st.sampled_from(["", "%0a", "%0d", "%00", "%20", "/", "%2f", ";", "%ff", "\x85", "\u2028"])
near = st.tuples(admin_paths, st.one_of(ends, paths)).map("".join)


@given(st.one_of(paths, near))
@examples(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_path_it_asks_for_the_read_key_reaches_no_admin_endpoint(gated: FastAPI, path: str) -> None:
    """An admin endpoint that is reached answers 400, for its body is empty, or 200."""

    async def statuses() -> list[int]:
        transport = httpx.ASGITransport(gated, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, headers={"X-API-Key": READ_KEY}) as client:
            url = httpx.URL(f"http://server/{quote(unquote(path).lstrip('/'))}")
            return [(await client.request(method, url, content=b"{}")).status_code for method in ("POST", "GET")]

    posted, got = run(statuses())
    decoded = "/" + unquote(path).lstrip("/")
    read = {(method, path) for method, path in [*OPEN, *READ, ("GET", "/redoc"), ("GET", "/docs/oauth2-redirect")]}
    assert posted in (403, 404, 405) or ("POST", decoded) in read
    assert got in (403, 404, 405) or ("GET", decoded) in read or decoded.startswith("/v1/models/")


@pytest.fixture
def gated(settings: Settings, models: Models) -> FastAPI:
    """The application, not started."""
    return create_app(settings, InferenceKeys.of(READ_KEY, ADMIN_KEY), models.first, lambda folder: ScriptedEngine([1]))
