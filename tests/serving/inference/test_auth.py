"""Deny by default: which key opens which endpoint."""

import pytest

from tests.serving.inference.support import (
    ADMIN_KEY,
    CHAT,
    READ_KEY,
    VALID,
    Server,
    error_of,
)

OPEN = [("GET", "/health"), ("GET", "/ready")]
READ = [
    ("POST", CHAT),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/champion"),
    ("GET", "/models/info"),
    ("GET", "/models/pool"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
]
ADMIN = [
    ("POST", "/models/pool/load"),
    ("POST", "/models/pool/unload"),
    ("POST", "/models/reload"),
    ("POST", "/models/undeploy"),
]


def test_the_tables_of_these_tests_hold_every_endpoint(server: Server) -> None:
    paths = server.request("GET", "/openapi.json").json()["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    undocumented = {("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/v1/models/champion")}
    assert documented - {("GET", "/v1/models/{model_id}")} == {*OPEN, *READ, *ADMIN} - undocumented


@pytest.mark.parametrize(("method", "path"), [*READ, *ADMIN, ("GET", "/nowhere"), ("DELETE", "/models/info")])
@pytest.mark.parametrize("key", [None, "", "wrong", READ_KEY[:-1], READ_KEY + "x", "schlüssel"])
def test_without_a_valid_key_everything_is_401(method: str, path: str, key: str | None, server: Server) -> None:
    headers = {} if key is None else {"X-API-Key": key.encode()}
    response = server.request(method, path, key=None, headers=headers, content=b"{")
    assert response.status_code == 401
    assert error_of(response)["code"] == "invalid_api_key"


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_health_and_readiness_need_no_key(method: str, path: str, server: Server) -> None:
    assert server.request(method, path, key=None).status_code == 200


@pytest.mark.parametrize(("method", "path"), READ)
@pytest.mark.parametrize("headers", [{"X-API-Key": READ_KEY}, {"Authorization": f"bearer {ADMIN_KEY}"}])
def test_either_key_reads_in_either_header(method: str, path: str, headers: dict[str, str], server: Server) -> None:
    body = {"json": VALID} if method == "POST" else {}
    assert server.request(method, path, key=None, headers=headers, **body).status_code == 200


@pytest.mark.parametrize(("method", "path"), ADMIN)
def test_the_read_key_changes_nothing(method: str, path: str, server: Server) -> None:
    response = server.request(method, path, key=READ_KEY, json={})
    assert response.status_code == 403
    assert error_of(response)["code"] == "admin_only"


@pytest.mark.parametrize(("method", "path"), ADMIN)
def test_the_admin_key_gets_as_far_as_the_body(method: str, path: str, server: Server) -> None:
    assert server.request(method, path, key=ADMIN_KEY, json={}).status_code == 400
