"""What stands below JSON: request lines, paths, methods and framing, each answered in the error shape, or refused."""

import json
import random
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from serving.inference.auth import ADMIN_PATHS
from tests.serving.inference.support import ADMIN_KEY, CHAT, READ_KEY, VALID, Server

TIMEOUT_S = 20


@dataclass(frozen=True)
class Answer:
    """One response, as it stood on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of an answer that must have the error shape."""
        told = json.loads(self.body)
        assert set(told) == {"error"}
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        code: str = told["error"]["code"]
        return code


def exchange(server: Server, *sent: bytes) -> list[Answer]:
    """What comes back for some bytes until the server closes the connection; a 100 is an answer too."""
    host, port = server.url.removeprefix("http://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection,
        connection.makefile("rb") as received,
    ):
        for piece in sent:
            connection.sendall(piece)
        return list(iter(lambda: read_answer(received), None))


def read_answer(received: Any) -> Answer | None:
    line = received.readline()
    if not line:
        return None
    headers: dict[str, str] = {}
    while (header := received.readline().decode("latin-1").strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return Answer(int(line.split()[1]), headers, received.read(int(headers.get("content-length", 0))))


def request(
    target: bytes,
    key: str | None = READ_KEY,
    method: str = "POST",
    body: bytes = b"{}",
    last: bool = True,
    **headers: str,
) -> bytes:
    """A request; the last of a connection asks for its end."""
    lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: server"]
    if key is not None:
        lines.append(b"X-API-Key: " + key.encode())
    if last:
        lines.append(b"Connection: close")
    told = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    lines += [f"{name}: {value}".encode("latin-1") for name, value in told.items() if value]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def status(server: Server, target: bytes, key: str | None = READ_KEY, method: str = "POST") -> int:
    (answer,) = exchange(server, request(target, key, method))
    if answer.status >= 400 and method != "HEAD":
        assert answer.code
    return answer.status


SAME_PLACE = [
    b"/models/%72eload",
    b"/models%2Freload",
    b"/%6d%6f%64%65%6c%73/reload",
    b"/models/reload?",
    b"/models/reload?model_path=/",
    b"/models/reload?/health",
    b"/models/reload#/health",
    b"http://elsewhere/models/reload",
    b"http://elsewhere:1/models/%72eload?x",
]
NO_PLACE = [
    b"//models/reload",
    b"/models//reload",
    b"/models/reload/",
    b"/models/reload//",
    b"/models/./reload",
    b"/models/../models/reload",
    b"/health/../models/reload",
    b"/health%2f..%2fmodels%2freload",
    b"/health;/../models/reload",
    b"/models/reload;",
    b"/models/reload;x=1",
    b"/models/reload%3f",
    b"/models/reload%23",
    b"/models/reload%0a",
    b"/models/reload%0d%0a",
    b"/models/reload%00",
    b"/models/reload%20",
    b"/models/reload%09",
    b"/models/reload%c2%a0",
    b"/models/%2572eload",
    b"/models/reload%ff",
    b"/MODELS/RELOAD",
    b"/models/%ef%bd%92eload",
    b"/models\\reload",
    b"/models%5creload",
    b"/./models/reload",
    b"/%2fmodels/reload",
]


@pytest.mark.parametrize("target", SAME_PLACE)
def test_another_spelling_of_an_admin_path_is_that_path(target: bytes, server: Server) -> None:
    assert [status(server, target, key) for key in (None, READ_KEY, ADMIN_KEY)] == [401, 403, 400]


@pytest.mark.parametrize("target", NO_PLACE)
def test_what_resembles_an_admin_path_is_no_path(target: bytes, server: Server) -> None:
    assert [status(server, target, key) for key in (None, READ_KEY, ADMIN_KEY)] == [401, 404, 404]


@pytest.mark.parametrize(
    "target", [b"/health/", b"/health%2f", b"/ready%0a", b"//health", b"/HEALTH", b"/health;", b"/health%00"]
)
def test_what_resembles_an_open_path_needs_a_key(target: bytes, server: Server) -> None:
    assert [status(server, target, key, "GET") for key in (None, READ_KEY)] == [401, 404]


def mutated(path: str, chance: random.Random) -> bytes:
    """A path with some characters escaped, doubled, added or changed."""
    odd = [
        "/",
        "//",
        ".",
        "..",
        "/.",
        ";",
        "%2f",
        "%5c",
        "%00",
        "%0a",
        "%0d",
        "%20",
        "%",
        "%2",
        "%zz",
        "?",
        "#",
        "*",
        "@",
        ":",
    ]
    pieces = [
        chance.choice(
            [
                quote(c, safe=""),
                f"%{ord(c):02x}",
                f"%25{ord(c):02x}",
                c.upper(),
                c + c,
                chance.choice(odd),
                c + chance.choice(odd),
            ]
        )
        if chance.random() < 0.12
        else c
        for c in path
    ]
    return "".join(pieces).encode()


def test_the_gate_and_the_router_agree_on_what_a_path_is(server: Server) -> None:
    """A path that is refused to the read key is the one whose route reads the admin's body, and no other is."""
    chance, reached, statuses = random.Random(5), 0, set()
    posted = sorted(ADMIN_PATHS - {"/gpu", "/system"})
    for _ in range(300):
        target = mutated(chance.choice(posted), chance)
        with_keys = tuple(status(server, target, key) for key in (None, READ_KEY, ADMIN_KEY))
        statuses.add(with_keys)
        reached += with_keys == (401, 403, 400)
    assert statuses <= {(401, 403, 400), (401, 404, 404), (401, 405, 405), (400, 400, 400)}
    assert reached > 50


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", [b"/health", b"/v1/models", b"/v1/chat/completions", b"/models/reload"])
def test_a_method_that_a_path_does_not_take_is_405_and_named(method: str, path: bytes, server: Server) -> None:
    (answer,) = exchange(server, request(path, ADMIN_KEY, method))
    assert answer.status == 405
    assert answer.headers["allow"] in ("GET", "POST")
    assert answer.headers["x-request-id"]
    if method == "HEAD":
        assert answer.body == b""
    else:
        assert answer.code == "method_not_allowed"


def test_options_of_the_server_as_a_whole_and_unknown_methods_are_refused(server: Server) -> None:
    for line in (b"OPTIONS * HTTP/1.1\r\n", b"BREW /health HTTP/1.1\r\n"):
        (answer,) = exchange(server, line + b"Host: x\r\nConnection: close\r\n\r\n")
        assert 400 <= answer.status < 500
        assert answer.code


BROKEN = {
    "no HTTP": b"hello\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP 2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a space in the target": b"GET /he alth HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\nHost x\r\n\r\n",
    "a null in a header": b"GET /health HTTP/1.1\r\nHost: x\x00y\r\n\r\n",
    "a negative length": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length that is none": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
    "two lengths": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length beside chunks": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_http_is_400_and_ends_the_connection(what: str, server: Server) -> None:
    (answer,) = exchange(server, BROKEN[what])
    assert (answer.status, answer.code, answer.headers["connection"]) == (400, "invalid_http", "close")


def test_requests_sent_at_once_are_answered_in_their_order(server: Server) -> None:
    body = json.dumps(VALID).encode()
    sent = [
        request(b"/v1/chat/completions", body=body, last=False),
        request(b"/nowhere", last=False),
        request(b"/models/reload", last=False),
        request(b"/v1/models", method="GET", body=b"", last=True),
    ]
    answers = exchange(server, b"".join(sent))
    assert [answer.status for answer in answers] == [200, 404, 403, 200]
    assert [json.loads(answer.body).get("object") for answer in answers] == ["chat.completion", None, None, "list"]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4


def test_a_client_that_waits_to_send_its_body_is_told_to_or_refused_at_once(server: Server) -> None:
    body = json.dumps(VALID).encode()
    answers = exchange(server, request(CHAT.encode(), body=body, Expect="100-continue"))
    assert [answer.status for answer in answers] == [100, 200]
    large = {"Content_Length": str(2**30), "Expect": "100-continue"}
    (answer,) = exchange(server, request(CHAT.encode(), body=b"", **large))
    assert (answer.status, answer.code) == (413, "request_too_large")
    (answer,) = exchange(server, request(CHAT.encode(), key=None, body=b"", **large))
    assert (answer.status, answer.code) == (401, "invalid_api_key")


def test_chunks_over_the_cap_are_413(server: Server) -> None:
    head = request(CHAT.encode(), body=b"", Content_Length="", Transfer_Encoding="chunked")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answers = exchange(server, head, chunk * 16, b"1\r\n \r\n")
    assert [(answer.status, answer.code) for answer in answers] == [(413, "request_too_large")]


@pytest.mark.parametrize("given", ["mine", "x" * 128])
def test_a_request_id_that_can_be_sent_back_is(given: str, server: Server) -> None:
    (answer,) = exchange(server, request(b"/health", method="GET", body=b"", X_Request_ID=given))
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["x" * 129, "a b", "ä", ""])
def test_another_request_id_is_replaced(given: str, server: Server) -> None:
    (answer,) = exchange(server, request(b"/health", method="GET", body=b"", X_Request_ID=given or " "))
    assert answer.headers["x-request-id"].startswith("req-")


def test_none_of_this_left_a_traceback(server: Server) -> None:
    for sent in BROKEN.values():
        exchange(server, sent)
    assert "Traceback" not in server.output.read_text()
    assert server.request("POST", CHAT, json=VALID).status_code == 200
