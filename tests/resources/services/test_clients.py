"""Threads and asyncio, the same rules: what is tried again, what is waited for, and what went wrong."""

import asyncio
import gc
import json
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from gpu_assets.errors import (
    ServiceAuthError,
    ServiceDecodeError,
    ServiceError,
    ServiceHttpError,
    ServiceUnavailable,
    SettingsError,
)
from gpu_assets.settings import load_settings
from resources.keys import inference_keys
from resources.services import AsyncServiceClient, ServiceClient, get_service_client
from tests.resources.services.support import ERROR, Reply, Scripted

Do = Callable[..., Any]
KEY = "Idempotency-Key"


@pytest.fixture(params=["threads", "asyncio"])
def do(request: pytest.FixtureRequest, scripted: Scripted, slept: list[float]) -> Do:
    """Calls a method of a client of the scripted server, which is given up after 3 attempts."""
    limits: dict[str, Any] = {"timeout_s": 0.5, "max_retries": 2}

    def in_thread(method: str, *arguments: Any, **named: Any) -> Any:
        with ServiceClient("vault server", scripted.url, "the-key", sleep=slept.append, **limits) as client:
            return getattr(client, method)(*arguments, **named)

    async def awaited(method: str, *arguments: Any, **named: Any) -> Any:
        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        async with AsyncServiceClient("vault server", scripted.url, "the-key", sleep=sleep, **limits) as client:
            return await getattr(client, method)(*arguments, **named)

    if request.param == "threads":
        return in_thread
    return lambda *arguments, **named: asyncio.run(awaited(*arguments, **named))


CALLS: dict[str, tuple[Any, ...]] = {
    "get_json": ("/x",),
    "put_json": ("/x", {"a": 1}),
    "delete_json": ("/x",),
}
FAILURES = {
    "dropped": Reply(0),
    "closed midway": Reply(200, {"a": 1}, missing=5),
    "500": Reply(500, ERROR),
    "503": Reply(503, ERROR),
    "429": Reply(429, ERROR),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("method", CALLS)
def test_what_is_idempotent_by_its_method_is_tried_again(
    method: str, failure: Reply, scripted: Scripted, do: Do, slept: list[float]
) -> None:
    scripted.replies = [failure, failure, Reply(200, {"b": 2})]
    assert do(method, *CALLS[method]) == {"b": 2}
    assert len(scripted.seen) == 3
    assert 0 < slept[0] < slept[1]
    assert scripted.headers("Authorization") == ["Bearer the-key"] * 3


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_post_that_is_not_idempotent_arrives_exactly_once(
    failure: Reply, scripted: Scripted, do: Do, slept: list[float]
) -> None:
    scripted.replies = [failure, Reply(200, {})]
    with pytest.raises(ServiceError):
        do("post_json", "/x", {"a": 1})
    assert scripted.requests == [("POST", "/x", {"a": 1})]
    assert scripted.headers(KEY) == [None]
    assert slept == []


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_post_with_a_key_carries_the_same_key_over_its_attempts(failure: Reply, scripted: Scripted, do: Do) -> None:
    scripted.replies = [failure, failure, Reply(200, {"b": 2})]
    assert do("post_json", "/x", json={"a": 1}, idempotency_key="of-the-caller") == {"b": 2}
    assert scripted.headers(KEY) == ["of-the-caller"] * 3


def test_a_key_that_is_made_is_one_for_each_call(scripted: Scripted, do: Do) -> None:
    for _ in range(2):
        scripted.replies = [Reply(503, ERROR), Reply(200, {})]
        do("post_json", "/x", idempotency_key=True)
    first, first_again, second, second_again = scripted.headers(KEY)
    assert first == first_again and second == second_again and first != second
    assert len(str(first)) == 36


def test_a_post_that_is_idempotent_by_nature_is_tried_again_without_a_key(scripted: Scripted, do: Do) -> None:
    scripted.replies = [Reply(0), Reply(200, 7)]
    assert do("post_json", "/x", idempotent=True) == 7
    assert scripted.headers(KEY) == [None, None]


@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_that_the_service_asks_for_is_kept(
    status: int, scripted: Scripted, do: Do, slept: list[float]
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    date = {"Retry-After": format_datetime(now + timedelta(seconds=9), usegmt=True), "Date": format_datetime(now)}
    scripted.replies = [Reply(status, ERROR, {"Retry-After": "7"}), Reply(status, ERROR, date), Reply(200, {})]
    do("get_json", "/x")
    assert slept[0] == 7
    assert 8 <= slept[1] <= 9


def test_a_wait_over_the_limit_is_not_waited_for(scripted: Scripted, do: Do, slept: list[float]) -> None:
    scripted.replies = [Reply(503, ERROR, {"Retry-After": "9999"})]
    with pytest.raises(ServiceUnavailable, match="it asks to wait 9999 s, and this client waits at most 60 s"):
        do("get_json", "/x")
    assert len(scripted.seen) == 1
    assert slept == []


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_service_that_stays_broken_is_unavailable_and_its_last_answer_is_kept(
    status: int, scripted: Scripted, do: Do
) -> None:
    scripted.replies = [Reply(0), Reply(status, ERROR)]
    with pytest.raises(ServiceUnavailable, match=rf"vault server at .*/x: {status}: it is not so") as failed:
        do("get_json", "/x")
    assert (failed.value.status, json.loads(failed.value.body)) == (status, ERROR)
    assert len(scripted.seen) == 3


def test_a_queue_that_stays_full_is_an_http_error(scripted: Scripted, do: Do) -> None:
    scripted.replies = [Reply(429, ERROR)]
    with pytest.raises(ServiceHttpError) as refused:
        do("get_json", "/x")
    assert refused.value.status == 429
    assert len(scripted.seen) == 3


def test_nobody_listening_is_unavailable(scripted: Scripted, do: Do, slept: list[float]) -> None:
    scripted.http.server_close()
    with pytest.raises(ServiceUnavailable, match="no connection .*is it running") as failed:
        do("get_json", "/x")
    assert failed.value.status is None
    assert len(slept) == 2


def test_an_answer_that_takes_too_long_is_asked_for_once(scripted: Scripted, do: Do) -> None:
    scripted.replies = [Reply(is_late=True)]
    with pytest.raises(ServiceUnavailable, match="no answer in time"):
        do("get_json", "/x")
    assert len(scripted.seen) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_an_auth_error_at_once(status: int, scripted: Scripted, do: Do) -> None:
    scripted.replies = [Reply(status, ERROR)]
    with pytest.raises(ServiceAuthError, match="check the key") as refused:
        do("get_json", "/x")
    assert "the-key" not in str(refused.value)
    assert len(scripted.seen) == 1


@pytest.mark.parametrize("status", [302, 400, 404, 409, 422])
def test_any_other_refusal_keeps_its_status_and_body(status: int, scripted: Scripted, do: Do) -> None:
    scripted.replies = [Reply(status, ERROR)]
    with pytest.raises(ServiceHttpError, match="it is not so") as refused:
        do("get_json", "/x")
    assert (refused.value.status, json.loads(refused.value.body)) == (status, ERROR)
    assert len(scripted.seen) == 1


def test_an_error_body_of_another_shape_is_shown(scripted: Scripted, do: Do) -> None:
    scripted.replies = [Reply(404, b"<html>gone</html>")]
    with pytest.raises(ServiceHttpError, match="404: '<html>gone</html>'"):
        do("get_json", "/x")


@pytest.mark.parametrize("body", [b"", b"not json", b'{"a": ', b"\xff"])
def test_an_answer_that_is_not_json_is_a_decode_error(body: bytes, scripted: Scripted, do: Do) -> None:
    scripted.replies = [Reply(200, body)]
    with pytest.raises(ServiceDecodeError, match="/x: the answer is not a JSON value"):
        do("get_json", "/x")


def test_an_answer_of_another_type_is_a_decode_error(scripted: Scripted, do: Do) -> None:
    scripted.replies = [Reply(200, {"a": 1})]
    assert do("get", "/x", dict) == {"a": 1}
    with pytest.raises(ServiceDecodeError, match="/x: the answer is not a list"):
        do("get", "/x", list)


def test_an_answer_without_content_is_none(scripted: Scripted, do: Do) -> None:
    scripted.replies = [Reply(204, b"")]
    assert do("delete_json", "/x") is None


@pytest.mark.parametrize(("reply", "lives"), [(Reply(200, {}), True), (Reply(503, ERROR), False), (Reply(0), False)])
def test_health_is_asked_for_once(reply: Reply, lives: bool, scripted: Scripted, do: Do) -> None:
    scripted.replies = [reply]
    assert do("health_check") is lives
    assert scripted.requests == [("GET", "/health", None)]


def test_waiting_ends_when_the_service_is_ready(scripted: Scripted) -> None:
    scripted.replies = [Reply(503, ERROR), Reply(0), Reply(200, {})]
    with ServiceClient("vault server", scripted.url) as client:
        client.wait_ready(10, "/ready")
    assert [path for _, path, _ in scripted.requests] == ["/ready"] * 3


def test_waiting_too_long_says_what_was_seen_last(scripted: Scripted) -> None:
    scripted.replies = [Reply(503, ERROR)]
    with (
        ServiceClient("vault server", scripted.url) as client,
        pytest.raises(ServiceUnavailable, match="not ready after 0 s: .*/ready: 503: it is not so"),
    ):
        client.wait_ready(0, "/ready")


def test_an_attempt_takes_no_longer_than_is_left_of_the_waiting(scripted: Scripted) -> None:
    scripted.replies = [Reply(200, {}, is_late=True)]
    with (
        ServiceClient("vault server", scripted.url, timeout_s=120) as client,
        pytest.raises(ServiceUnavailable, match="not ready after 0.3 s: .*/ready: no answer in time"),
    ):
        client.wait_ready(0.3, "/ready")


def test_a_client_that_nobody_closes_closes_with_its_last_reference(scripted: Scripted) -> None:
    client = ServiceClient("vault server", scripted.url)
    client.get_json("/x")
    http = client._http
    del client
    with warnings.catch_warnings():  # what other tests' libraries left open is collected here too
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert http.is_closed


def hosts_with_vault(settings_hosts: Any, port: int) -> dict[str, Any]:
    hosts = settings_hosts.model_dump(mode="json")
    hosts["hosts"]["4090"]["services"]["vault-keeper"] = {"port": port, "health": "/alive"}
    return dict(hosts)


@pytest.fixture
def vault(scripted: Scripted, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """The scripted server as the service vault-keeper of hosts.json."""
    path = tmp_path / "hosts-with-vault.json"
    path.write_text(json.dumps(hosts_with_vault(load_settings().hosts, scripted.port)))
    monkeypatch.setenv("GPU_ASSETS_HOSTS_FILE", str(path))
    return scripted


def test_a_service_of_hosts_json_is_found_by_its_name(vault: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_KEEPER_API_KEY", "the-key")
    with get_service_client("vault-keeper") as client:
        assert (client.timeout_s, client.max_retries) == (30.0, 5)
        client.post_json("/x", json={"a": 1})
        assert client.health_check()
    assert vault.requests == [("POST", "/x", {"a": 1}), ("GET", "/alive", None)]
    assert vault.headers("Authorization") == ["Bearer the-key"] * 2


def test_the_limits_of_the_environment_are_kept(vault: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_KEEPER_TIMEOUT_S", "2.5")
    monkeypatch.setenv("VAULT_KEEPER_MAX_RETRIES", "0")
    vault.replies = [Reply(503, ERROR)]
    with get_service_client("vault-keeper") as client:
        assert client.timeout_s == 2.5
        with pytest.raises(ServiceUnavailable):
            client.get_json("/x")
    assert len(vault.seen) == 1
    assert vault.headers("Authorization") == [None]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TIMEOUT_S", "0"),
        ("TIMEOUT_S", "nan"),
        ("TIMEOUT_S", ""),
        ("TIMEOUT_S", "3601"),
        ("MAX_RETRIES", "-1"),
        ("MAX_RETRIES", "1.5"),
        ("MAX_RETRIES", "21"),
    ],
)
def test_a_variable_out_of_bounds_is_named_with_its_value(
    variable: str, value: str, vault: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VAULT_KEEPER_{variable}", value)
    with pytest.raises(SettingsError, match=f"VAULT_KEEPER_{variable}: .*{value!r}"):
        get_service_client("vault-keeper")


@pytest.mark.parametrize("value", ["", " secret", "sec\u0440et", "sec\nret"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(
    value: str, vault: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_KEEPER_API_KEY", value)
    with pytest.raises(SettingsError, match="VAULT_KEEPER_API_KEY is no key") as refused:
        get_service_client("vault-keeper")
    assert not value.strip() or value.strip() not in str(refused.value)


def test_an_unknown_service_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"service 'vault' is offered by none .*\['dagster', 'inference'\]"):
        get_service_client("vault")


def test_the_inference_server_is_asked_with_its_own_key_else_with_the_admin_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load_settings()
    with get_service_client("inference", settings) as client:
        assert client.base_url == settings.hosts.url("inference")
        assert client.timeout_s == 120
        assert client._http.headers["Authorization"] == f"Bearer {inference_keys(settings).admin}"
    monkeypatch.setenv("INFERENCE_API_KEY", "of-this-client")
    with get_service_client("inference", settings) as client:
        assert client._http.headers["Authorization"] == "Bearer of-this-client"
