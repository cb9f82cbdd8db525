"""A client retries what may be retried, waits as told, and says what went wrong."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpu_assets.errors import ServiceAuthError, ServiceDecodeError, ServiceHttpError, ServiceUnavailable
from gpu_assets.settings import load_settings
from resources.keys import inference_keys
from resources.services import InferenceClient, inference_client

NO_MODEL = {
    "loaded": False,
    "id": None,
    "name": None,
    "weights_sha256": None,
    "checkpoint_step": None,
    "path": None,
    "template_sha256": None,
    "renderer_digest": None,
    "loaded_at": None,
}
ERROR = {"error": {"message": "it is not so", "type": "server_error", "param": None, "code": None}}


@dataclass(frozen=True)
class Reply:
    """One scripted answer; a status of 0 closes the connection instead."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class Scripted:
    """A real HTTP server that answers by script: the last reply is repeated."""

    def __init__(self) -> None:
        self.replies = [Reply()]
        self.answer: Callable[[str, Any], Reply] | None = None
        self.seen: list[tuple[str, str, Any]] = []
        self.keys: list[str | None] = []
        self._lock = threading.Lock()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: Any) -> None:
                reply = scripted.next_reply(self.command, self.path, body, self.headers["Authorization"])
                if reply.status == 0:
                    self.close_connection = True
                    return
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def next_reply(self, method: str, path: str, body: Any, key: str | None) -> Reply:
        with self._lock:
            self.seen.append((method, path, body))
            self.keys.append(key)
            if self.answer is not None:
                return self.answer(path, body)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def client(scripted: Scripted, slept: list[float]) -> Iterator[InferenceClient]:
    with InferenceClient("inference server", scripted.url, "the-key", timeout_s=2, sleep=slept.append) as client:
        yield client


def completion(text: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "model": "tiny",
        "system_fingerprint": "f" * 64,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


@pytest.mark.parametrize("failure", [Reply(0), Reply(500, ERROR), Reply(503, ERROR), Reply(429, ERROR)])
def test_a_get_is_tried_again_after(
    failure: Reply, scripted: Scripted, client: InferenceClient, slept: list[float]
) -> None:
    scripted.replies = [failure, failure, Reply(200, NO_MODEL)]
    assert client.info().loaded is False
    assert len(scripted.seen) == 3
    assert len(slept) == 2
    assert slept[0] < slept[1]


def test_the_key_is_sent(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(200, NO_MODEL)]
    client.info()
    assert scripted.keys == ["Bearer the-key"]


def test_retry_after_is_waited_for(scripted: Scripted, client: InferenceClient, slept: list[float]) -> None:
    scripted.replies = [Reply(429, ERROR, {"Retry-After": "7"}), Reply(503, ERROR, {"Retry-After": "9999"})]
    scripted.replies.append(Reply(200, NO_MODEL))
    client.info()
    assert slept == [7, 30]


@pytest.mark.parametrize("status", [500, 503])
def test_a_service_that_stays_broken_is_unavailable(status: int, scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(status, ERROR)]
    with pytest.raises(ServiceUnavailable, match=rf"inference server at .*/models/info: {status}: it is not so"):
        client.info()
    assert len(scripted.seen) == 6


def test_a_queue_that_stays_full_is_an_http_error(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(429, ERROR)]
    with pytest.raises(ServiceHttpError) as refused:
        client.info()
    assert refused.value.status == 429


def test_nobody_listening_is_unavailable(scripted: Scripted, slept: list[float]) -> None:
    scripted.http.server_close()
    with (
        InferenceClient("inference server", scripted.url, sleep=slept.append) as client,
        pytest.raises(ServiceUnavailable, match="no connection .*is it running"),
    ):
        client.info()
    assert len(slept) == 5


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_an_auth_error_at_once(status: int, scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(status, ERROR)]
    with pytest.raises(ServiceAuthError, match="check the key"):
        client.info()
    assert len(scripted.seen) == 1


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_any_other_refusal_keeps_its_status_and_body(status: int, scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(status, ERROR)]
    with pytest.raises(ServiceHttpError, match="it is not so") as refused:
        client.reload(Path("/models/x"))
    assert (refused.value.status, json.loads(refused.value.body)) == (status, ERROR)
    assert len(scripted.seen) == 1


def test_a_post_that_is_not_idempotent_is_sent_once(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(503, ERROR)]
    with pytest.raises(ServiceUnavailable):
        client.unload("x")
    assert scripted.seen == [("POST", "/models/pool/unload", {"id": "x"})]


def test_a_post_that_is_idempotent_is_tried_again(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(0), Reply(200, completion("hello"))]
    assert client.chat([{"role": "user", "content": "x"}], model="champion", max_tokens=3).text == "hello"
    assert len(scripted.seen) == 2


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b"{}", json.dumps(NO_MODEL | {"loaded": "no"}).encode()])
def test_an_answer_of_another_shape_is_a_decode_error(body: bytes, scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(200, body)]
    with pytest.raises(ServiceDecodeError, match=r"/models/info: the answer is not a ModelInfo"):
        client.info()


def test_an_error_body_of_another_shape_is_shown(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(404, b"<html>gone</html>")]
    with pytest.raises(ServiceHttpError, match="404: '<html>gone</html>'"):
        client.info()


def test_a_completion_becomes_an_answer(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(200, completion("①"))]
    messages = [{"role": "user", "content": "x"}]
    answer = client.chat(messages, model="champion", max_tokens=3)
    assert (answer.text, answer.finish_reason, answer.model) == ("①", "stop", "tiny")
    assert (answer.weights_sha256, answer.completion_tokens) == ("f" * 64, 2)
    assert scripted.seen[0][2] == {"model": "champion", "messages": messages, "max_tokens": 3, "temperature": 0.0}


def test_many_answers_come_in_the_order_of_their_questions(scripted: Scripted, client: InferenceClient) -> None:
    scripted.answer = lambda path, body: Reply(200, completion(body["messages"][0]["content"]))
    questions = [str(i) for i in range(50)]
    conversations = [[{"role": "user", "content": question}] for question in questions]
    answers = client.chat_many(conversations, model="champion", max_tokens=3, concurrency=8)
    assert [answer.text for answer in answers] == questions
    assert client.chat_many([], model="champion", max_tokens=3, concurrency=8) == []


def test_one_refusal_ends_many_questions(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(404, ERROR)]
    conversations = [[{"role": "user", "content": "x"}]] * 200
    with pytest.raises(ServiceHttpError, match="it is not so"):
        client.chat_many(conversations, model="nobody", max_tokens=3, concurrency=2)
    assert len(scripted.seen) < 200


def test_waiting_ends_when_the_service_is_ready(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(503, ERROR), Reply(0), Reply(200, {})]
    client.wait_ready(10, "/ready")
    assert [path for _, path, _ in scripted.seen] == ["/ready"] * 3


def test_waiting_too_long_says_what_was_seen_last(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(503, ERROR)]
    with pytest.raises(ServiceUnavailable, match="not ready after 0 s: .*/ready: 503: it is not so"):
        client.wait_ready(0, "/ready")


def test_the_client_of_the_settings_goes_where_hosts_json_says_with_the_admin_key() -> None:
    settings = load_settings()
    with inference_client(settings) as client:
        assert client.base_url == settings.hosts.url("inference")
        assert client._http.headers["Authorization"] == f"Bearer {inference_keys(settings).admin}"
