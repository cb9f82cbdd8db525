"""A real HTTP server that misbehaves by script."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ERROR = {"error": {"message": "it is not so", "type": "server_error", "param": None, "code": None}}
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


@dataclass(frozen=True)
class Reply:
    """One scripted answer.

    `status` 0 closes the connection instead, `missing` bytes are promised and not sent, `is_late` waits for the
    test's end, and `pieces` are sent one by one in the place of a body.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    is_late: bool = False
    pieces: Iterable[bytes] | None = None


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


class Scripted:
    """Answers by script, the last reply again and again, or by `answer`."""

    def __init__(self) -> None:
        self.replies = [Reply()]
        self.answer: Callable[[str, Any], Reply] | None = None
        self.seen: list[Seen] = []
        self.client_left = threading.Event()
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port: int = self.http.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[tuple[str, str, Any]]:
        return [(seen.method, seen.path, seen.body) for seen in self.seen]

    def headers(self, name: str) -> list[str | None]:
        """The value of a header in each request."""
        return [seen.headers.get(name.lower()) for seen in self.seen]

    def next_reply(self, seen: Seen) -> Reply:
        with self._lock:
            self.seen.append(seen)
            if self.answer is not None:
                return self.answer(seen.path, seen.body)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextmanager
def running() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.http.shutdown()
        thread.join()
        server.http.server_close()


def _handler(scripted: Scripted) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers["Content-Length"] or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                self._send(scripted.next_reply(Seen(self.command, self.path, body, headers)))
            except (BrokenPipeError, ConnectionResetError):
                scripted.client_left.set()
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def _send(self, reply: Reply) -> None:
            if reply.is_late:
                scripted.ended.wait(60)
            if reply.status == 0:
                self.close_connection = True
                return
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.pieces is not None:
                self.close_connection = True
                self.send_header("Connection", "close")
                self.end_headers()
                for piece in reply.pieces:
                    self.wfile.write(piece)
                return
            self.send_header("Content-Length", str(len(content) + reply.missing))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = self.close_connection or reply.missing > 0

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def completion(text: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "model": "tiny",
        "system_fingerprint": "f" * 64,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


def chunk(text: str, finish_reason: str | None = None, *, name: str = "tiny", weights: str = "f" * 64) -> bytes:
    """One event of a streamed answer."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    data = {"id": "chatcmpl-1", "model": name, "system_fingerprint": weights, "choices": [choice]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
