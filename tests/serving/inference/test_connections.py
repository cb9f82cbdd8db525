"""Clients that are slow, silent or speak no HTTP cost the server little, and for a bounded time."""

import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.serving.inference.support import (
    ADMIN_KEY,
    CHAT,
    QUESTION,
    READ_KEY,
    VALID,
    Models,
    Server,
    error_of,
    ready_server,
    start_server,
)

PATIENCE_S = 30
TIMEOUTS = {"head_timeout_s": 2, "body_timeout_s": 2, "send_timeout_s": 2}
KEY = f"X-API-Key: {ADMIN_KEY}\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LONG_STREAM = VALID | {"stream": True, "max_tokens": 1900, "logprobs": True, "top_logprobs": 20}
"""Some megabytes of events: more than the buffers of two kernels hold."""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Iterator[Server]:
    """A server that waits for nobody for long."""
    folder = tmp_path_factory.mktemp("strict")
    with ready_server(folder, "--model", str(models.first), serving=TIMEOUTS) as started:
        yield started


def connect(server: Server, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(PATIENCE_S)
    host, port = server.url.removeprefix("http://").split(":")
    client.connect((host, int(port)))
    return client


def read_to_end(client: socket.socket) -> bytes:
    """All that comes until the server closes or cuts the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            received += piece
    return received


def exchange(server: Server, data: bytes) -> bytes:
    """What a server answers to these bytes until it closes the connection."""
    with connect(server) as client:
        with suppress(BrokenPipeError, ConnectionResetError):  # it had seen enough
            client.sendall(data)
        return read_to_end(client)


def refusal_of(answer: bytes) -> tuple[int, str]:
    """The status and the code of a refusal in the error shape, the only answer there is."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert head.lower().count(b"\r\nx-request-id: req-") == 1
    return int(head.split(b" ")[1]), error["code"]


def post(body: object, headers: str = "", path: str = CHAT) -> bytes:
    content = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{KEY}{headers}Content-Length: {len(content)}\r\n\r\n".encode() + content


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_flight(server: Server) -> int:
    return sum(model.in_flight for model in server.client.pool().models)


@pytest.mark.parametrize("begun", [b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_is_never_complete_is_408_and_the_connection_ends(begun: bytes, strict: Server) -> None:
    assert refusal_of(exchange(strict, begun)) == (408, "request_timeout")


def test_a_head_that_comes_byte_by_byte_has_no_more_time(strict: Server) -> None:
    with connect(strict) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(PATIENCE_S * 10):
                client.sendall(b"x")
                time.sleep(0.1)


def test_a_silent_connection_is_closed_before_and_after_an_answer(strict: Server) -> None:
    assert exchange(strict, b"") == b""
    answer = exchange(strict, HEALTH)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1


def test_line_breaks_do_not_keep_a_connection(strict: Server) -> None:
    with connect(strict) as client, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(PATIENCE_S * 10):
            client.sendall(b"\r\n")
            time.sleep(0.1)


@pytest.mark.parametrize("path", [CHAT, "/models/reload"])
@pytest.mark.parametrize("framing", ["Content-Length: 500", "Transfer-Encoding: chunked"])
def test_a_body_that_is_never_complete_is_408(framing: str, path: str, strict: Server) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{KEY}{framing}\r\n\r\n".encode()
    begun = b'5\r\n{"mod\r\n' if "chunked" in framing else b'{"mod'
    answer = exchange(strict, head + begun)
    assert refusal_of(answer) == (408, "request_timeout")
    assert b"connection: close" in answer.lower()


LARGE_HEADS = {
    "one header": b"GET /health HTTP/1.1\r\nX: " + b"a" * 3_000_000,
    "many headers": b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 500_000,
    "a target": b"GET /" + b"a" * 3_000_000,
    "a trailer": f"POST {CHAT} HTTP/1.1\r\n{KEY}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nX: ".encode()
    + b"a" * 3_000_000,
    "a chunk's extension": f"POST {CHAT} HTTP/1.1\r\n{KEY}Transfer-Encoding: chunked\r\n\r\n2;x=".encode()
    + b"a" * 3_000_000,
}


@pytest.mark.parametrize("what", LARGE_HEADS)
def test_what_is_no_body_is_bounded_too(what: str, strict: Server) -> None:
    before = psutil.Process(strict.process.pid).memory_info().rss
    with connect(strict) as client, pytest.raises((BrokenPipeError, ConnectionResetError)):
        client.sendall(LARGE_HEADS[what])
        for _ in range(100):
            client.sendall(b"a" * 3_000_000)
    assert psutil.Process(strict.process.pid).memory_info().rss - before < 50e6


COMPLETE_HEADS = {
    "one header": b"GET /health HTTP/1.1\r\nX: " + b"a" * 65_536 + b"\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\n" + b"name: value\r\n" * 8000 + b"\r\n",
    "many headers of a byte": b"GET /health HTTP/1.1\r\n" + b"a:\r\n" * 20_000 + b"\r\n",
    "a target": b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\n\r\n",
    "behind another request": HEALTH + b"GET /health HTTP/1.1\r\nX: " + b"a" * 65_536 + b"\r\n\r\n",
}


@pytest.mark.parametrize("what", COMPLETE_HEADS)
def test_a_head_over_the_cap_is_431_in_however_few_pieces_it_comes(what: str, strict: Server) -> None:
    refused = exchange(strict, COMPLETE_HEADS[what])
    assert refusal_of(refused[refused.rindex(b"HTTP/1.1 ") :]) == (431, "headers_too_large")


def test_a_head_just_under_the_cap_is_taken(strict: Server) -> None:
    head = b"GET /health HTTP/1.1\r\nX: " + b"a" * 65_000 + b"\r\n\r\n"
    assert exchange(strict, head).startswith(b"HTTP/1.1 200")


def refused(server: Server, status: int, code: str) -> float:
    """How many requests were refused like this since the server started."""
    series = f'gpu_assets:requests_refused_total{{code="{code}",status="{status}"}} '
    lines = server.request("GET", "/metrics").text.splitlines()
    return sum(float(line.removeprefix(series)) for line in lines if line.startswith(series))


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"BREW /health HTTP/1.1\r\n\r\n", 400, "invalid_http"),
        (b"GET /health HTT", 408, "request_timeout"),
        (COMPLETE_HEADS["one header"], 431, "headers_too_large"),
    ],
)
def test_what_is_refused_before_there_is_a_request_is_counted(
    data: bytes, status: int, code: str, strict: Server
) -> None:
    before = refused(strict, status, code)
    exchange(strict, data)
    assert refused(strict, status, code) == before + 1


def test_a_client_that_leaves_in_its_body_is_counted_as_that(strict: Server) -> None:
    before = refused(strict, 400, "client_disconnected")
    with connect(strict) as client:
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{KEY}Content-Length: 500\r\n\r\n{{".encode())
    wait_until(lambda: refused(strict, 400, "client_disconnected") == before + 1)


def all_refused(server: Server) -> float:
    lines = server.request("GET", "/metrics").text.splitlines()
    return sum(float(line.split(" ")[-1]) for line in lines if line.startswith("gpu_assets:requests_refused_total{"))


@pytest.mark.parametrize(
    ("rest", "status", "code"),
    [(b"ZZZ\r\n", 400, "invalid_http"), (b"0\r\nX: " + b"a" * 70_000 + b"\r\n", 431, "headers_too_large")],
)
def test_a_body_that_goes_wrong_is_counted_once_and_answered_under_its_requests_id(
    rest: bytes, status: int, code: str, strict: Server
) -> None:
    before, all_before = refused(strict, status, code), all_refused(strict)
    with connect(strict) as client:
        client.sendall(
            f"POST {CHAT} HTTP/1.1\r\n{KEY}X-Request-Id: mine\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        wait_until(lambda: strict.request("GET", "/health").status_code == 200)
        client.sendall(rest)
        answer = read_to_end(client)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"x-request-id: mine\r\n") == 1
    assert refused(strict, status, code) == before + 1
    assert strict.request("GET", "/health").status_code == 200
    assert all_refused(strict) == all_before + 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"BREW /health HTTP/1.1\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\n\r\n",
        b"GET /h\xc3\xa4lth HTTP/1.1\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nx-request-id: a\x01b\r\n\r\n",
        b"POST /health HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /health HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /health HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    ],
)
def test_what_is_no_http_is_400_in_the_error_shape(data: bytes, strict: Server) -> None:
    assert refusal_of(exchange(strict, data)) == (400, "invalid_http")


def test_pipelined_requests_are_answered_in_their_order(strict: Server) -> None:
    paths = ["/v1/models/champion", "/v1/models/first", "/v1/models/nobody", "/health"]
    answer = exchange(strict, b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n{KEY}\r\n".encode() for path in paths))
    ids = [b'"id":"champion"', b'"id":"first"', b"'nobody' is not held", b'"status":"ok"']
    places = [answer.index(each) for each in ids]
    assert places == sorted(places)


def test_a_stream_with_requests_pipelined_behind_it_ends_with_its_client(strict: Server) -> None:
    with connect(strict, receive_buffer=4096) as client:
        client.sendall(post(LONG_STREAM) + HEALTH + HEALTH)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert in_flight(strict) == 1
    wait_until(lambda: in_flight(strict) == 0)


def test_a_reader_that_takes_nothing_of_its_stream_is_cut(strict: Server) -> None:
    with connect(strict, receive_buffer=4096) as client:
        client.sendall(post(LONG_STREAM))
        wait_until(lambda: in_flight(strict) == 1)
        wait_until(lambda: in_flight(strict) == 0)
        received = read_to_end(client)
    assert received.startswith(b"HTTP/1.1 200")
    assert b"[DONE]" not in received


def test_a_reader_that_takes_its_time_gets_all_of_its_stream(strict: Server) -> None:
    """It pauses for less than the server waits, more often than that is long."""
    received = b""
    with connect(strict, receive_buffer=65536) as client:
        client.sendall(post(LONG_STREAM | {"max_tokens": 600}, "Connection: close\r\n"))
        for _ in range(15):
            received += client.recv(65536)
            time.sleep(0.2)
        received += read_to_end(client)
    assert b"data: [DONE]\n\n" in received


def test_a_client_that_waits_to_be_told_to_send_its_body_is_told(strict: Server) -> None:
    head, _, body = post(VALID, "Connection: close\r\nExpect: 100-continue\r\n").partition(b"\r\n\r\n")
    with connect(strict) as client:
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert read_to_end(client).startswith(b"HTTP/1.1 200")


def test_a_client_that_waits_with_a_body_over_the_cap_is_refused_and_closed(strict: Server) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\n{KEY}Expect: 100-continue\r\nContent-Length: 9000000\r\n\r\n".encode()
    answer = exchange(strict, head)
    assert refusal_of(answer) == (413, "request_too_large")
    assert b"connection: close" in answer


def test_ten_megabytes_are_413_to_real_clients_with_and_without_their_length(strict: Server) -> None:
    large: list[Any] = [{"role": "user", "content": "x" * 10_000_000}]
    with pytest.raises(openai.APIStatusError) as refused:
        strict.openai().chat.completions.create(model="champion", messages=large)
    assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")
    content = json.dumps(VALID | {"messages": large}).encode()
    pieces = (content[at : at + 65536] for at in range(0, len(content), 65536))
    response = strict.request("POST", CHAT, content=pieces)
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")


def test_a_body_under_another_cap_is_taken(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("wide")
    server = start_server(folder, serving={"max_body_mb": 3})
    try:
        for megabytes, status in ((2, 503), (4, 413)):
            content = json.dumps(VALID | {"user": "x" * megabytes * 2**20})
            assert server.request("POST", CHAT, content=content).status_code == status
    finally:
        server.stop()


def test_a_server_that_is_told_to_end_cuts_whoever_does_not_read_and_refuses_what_has_not_begun(
    tmp_path_factory: pytest.TempPathFactory, models: Models
) -> None:
    with ready_server(tmp_path_factory.mktemp("ending"), "--model", str(models.first)) as server:
        with connect(server, receive_buffer=4096) as reader, connect(server) as waiting:
            reader.sendall(post(LONG_STREAM))
            waiting.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{KEY}Content-Length: 500\r\n\r\n{{".encode())
            wait_until(lambda: in_flight(server) == 1)
            assert server.stop() == 0
            assert refusal_of(read_to_end(waiting)) == (503, "server_stopping")
            assert b"[DONE]" not in read_to_end(reader)
        assert "Traceback" not in server.output.read_text()


def test_the_server_may_open_as_many_files_as_it_is_let(strict: Server) -> None:
    soft, hard = psutil.Process(strict.process.pid).rlimit(resource.RLIMIT_NOFILE)
    assert soft == min(hard, 65_536)


@contextmanager
def many_files() -> Iterator[None]:
    """A thousand sockets are more than some systems let a process have at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def check_slow_clients(server: Server, in_head: int, in_body: int, in_stream: int) -> None:
    """The server answers others meanwhile, cuts each in time, and keeps nothing of any."""
    process = psutil.Process(server.process.pid)
    files = process.num_fds()
    with many_files(), ExitStack() as open_clients, httpx.Client(base_url=server.url, trust_env=False) as other:
        clients = []
        for data, count in (
            (b"GET /health HTTP/1.1\r\nX-Slow: ", in_head),
            (f"POST {CHAT} HTTP/1.1\r\n{KEY}Content-Length: 500\r\n\r\n{{".encode(), in_body),
            (post(LONG_STREAM | {"max_tokens": 200}), in_stream),
        ):
            for _ in range(count):
                client = open_clients.enter_context(connect(server, receive_buffer=4096))
                client.sendall(data)
                clients.append(client)
        for _ in range(20):
            assert other.get("/health", timeout=5).status_code == 200
        answer = server.request("POST", CHAT, json=VALID)
        assert answer.status_code == 200
        wait_until(lambda: process.num_fds() <= files + 8)
        wait_until(lambda: in_flight(server) == 0)
    assert server.request("POST", CHAT, key=READ_KEY, json=VALID | {"messages": QUESTION}).status_code == 200


def test_a_hundred_slow_clients_are_cut_and_others_are_answered_meanwhile(strict: Server) -> None:
    check_slow_clients(strict, in_head=45, in_body=45, in_stream=10)


@pytest.mark.slow
def test_a_thousand_slow_clients_are_cut_and_others_are_answered_meanwhile(strict: Server) -> None:
    check_slow_clients(strict, in_head=450, in_body=450, in_stream=100)
