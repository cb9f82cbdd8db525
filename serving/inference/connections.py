"""The server's connections, bounded in what they cost: uvicorn bounds neither a request's head nor a stalled reader.

A connection is cut when the head of its next request is not there in time, when a head is too large, and when its
client takes nothing of an answer for too long; then the request's generation is cancelled. The time that a body may
take is `body`'s. Knows nothing of routes or models.
"""

import asyncio
import json
import resource
import socket
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gpu_assets.settings import Serving
from serving.inference.errors import IS_REFUSED, REQUEST_ID_HEADER, ApiError, new_request_id
from serving.inference.metrics import Metrics

MAX_HEAD_BYTES = 64 * 1024
FIELD_OVERHEAD = 4
"""Bytes between a header's name, its value and the next."""
CHUNK_OVERHEAD = 8
"""Bytes of framing that a byte of a body may cost beside that: `1\\r\\nx\\r\\n` costs five."""
SEND_BUFFER_BYTES = 64 * 1024
"""The kernel's, for each connection: with its default a thousand readers that stall would hold gigabytes."""
MIN_BYTES_TAKEN = 1024
"""Of an answer that waits, in `send_timeout_s`: whoever takes a byte at a time would hold a model for weeks."""
MAX_OPEN_FILES = 65_536
RESERVED_FILES = 256
"""For models, logs and pipes; the rest of what the process may open is for connections."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Seconds until the head of a request is there, seconds without progress of a reader, and connections at once."""

    head_timeout_s: float
    send_timeout_s: float
    max_connections: int


def server_config(app: FastAPI, serving: Serving, grace_s: int) -> uvicorn.Config:
    """How uvicorn serves an app on bounded connections. Side effect: raises the soft limit of open files.

    Args:
        app: as `create_app` makes it; its metrics count what is refused here.
        grace_s: seconds that answers under way have when the server is told to end.
    """
    files = _open_files()
    max_connections = max(files - RESERVED_FILES, files // 2)
    limits = ConnectionLimits(serving.head_timeout_s, serving.send_timeout_s, max_connections)
    protocol = type("LimitedConnection", (BoundedConnection,), {"limits": limits, "metrics": app.state.metrics})
    return uvicorn.Config(
        app, http=protocol, ws="none", access_log=False, timeout_graceful_shutdown=grace_s, log_config=None
    )


def bound_buffers(listening: socket.socket) -> socket.socket:
    """The same socket; what it accepts holds little for a reader that stalls."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return listening


def _open_files() -> int:
    """The files that this process may open, after asking for as many as it can have and may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class BoundedConnection(HttpToolsProtocol):
    """One connection. Refusals that no route sees, as of what is no HTTP, have the error shape too."""

    limits: ClassVar[ConnectionLimits]
    metrics: ClassVar[Metrics]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._in_head = False
        self._began = False
        self._num_fields = 0
        """Bytes of the current head that are its path or its headers, however many pieces it came in."""
        self._num_body = 0
        self._num_other = 0
        """Bytes of the current message that are no body, from the second piece of it that arrived."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, "too_many_connections", f"{self.limits.max_connections} connections are open; try later")
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _cancel(self._head_timer)
        _cancel(self._send_timer)
        running = self._running
        if running is not None and not running.response_complete:  # uvicorn tells the last of a pipeline only
            running.disconnected = True
            running.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._began, before = False, self._num_body
        super().data_received(data)
        if not self._began:
            self._num_other += len(data) - (self._num_body - before)
        if self._num_other > MAX_HEAD_BYTES + CHUNK_OVERHEAD * self._num_body and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._began = True
        self._num_fields = self._num_body = self._num_other = 0

    def on_url(self, url: bytes) -> None:
        self._count_fields(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_fields(name, value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        _cancel(self._head_timer)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_body += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        if is_last:
            self._expect_head()
            self._watch_reader()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._running is not None and not self._running.response_complete:
            _cancel(self._send_timer)

    def send_400_response(self, msg: str) -> None:
        if self._num_fields > MAX_HEAD_BYTES:
            self._refuse_head()
        else:
            self._refuse(400, "invalid_http", f"{msg} HTTP/1.1 is wanted")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, partial(self._run, cycle, app))

    async def _run(self, cycle: RequestResponseCycle, app: Any, *call: Any) -> None:
        """Answer a request; one that has not ended when the server must is refused or cut."""
        task = asyncio.current_task()
        try:
            await app(*call)
        except asyncio.CancelledError:
            if task is None or not task.cancelling():  # nobody told it to end
                raise
            if not cycle.response_complete:
                self._refuse(503, "server_stopping", "the server stops; ask again when it is back")
            cycle.disconnected = True

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is an offer; the request is answered as it is."""

    def _count_fields(self, *parts: bytes) -> None:
        """Raise where a head is too large, so that the parser ends and uvicorn sends its 400, which is ours."""
        self._num_fields += sum(map(len, parts)) + FIELD_OVERHEAD
        if self._num_fields > MAX_HEAD_BYTES:
            raise ValueError(f"{self._num_fields} bytes of headers")

    def _expect_head(self) -> None:
        """Give the client the time for the head of a request, be it the next or the rest of one that was refused."""
        _cancel(self._head_timer)
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._in_head and not self.transport.is_closing():
            seconds = self.limits.head_timeout_s
            self._refuse(408, "request_timeout", f"the headers were not complete after {seconds:g} s")
            self._expect_head()
        elif self.transport.get_write_buffer_size():  # the last answer is still being taken
            self._expect_head()
        else:
            self.transport.abort()

    def _watch_reader(self) -> None:
        """See to it that the client goes on taking what waits for it, until it has all."""
        _cancel(self._send_timer)
        if left := self.transport.get_write_buffer_size():
            self._send_timer = self.loop.call_later(self.limits.send_timeout_s, self._reader_is_late, left)

    def _reader_is_late(self, before: int) -> None:
        if self.transport.get_write_buffer_size() <= max(0, before - MIN_BYTES_TAKEN):
            self._watch_reader()
        else:
            self.transport.abort()

    def _refuse_head(self) -> None:
        self._refuse(431, "headers_too_large", f"the headers have more than {MAX_HEAD_BYTES} bytes; send fewer")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer and close; cut where an answer is under way already."""
        self.metrics.refused(status, code)
        request_id = new_request_id()
        if self._running is not None and not self._running.response_complete:
            state = self._running.scope.setdefault("state", {})
            state[IS_REFUSED], request_id = True, state.get("request_id", request_id)
            if self._running.response_started:
                self.transport.abort()
                return
        body = json.dumps(ApiError(status, message, code=code).body.model_dump()).encode()
        headers = {
            "content-type": "application/json",
            "content-length": len(body),
            "connection": "close",
            REQUEST_ID_HEADER: request_id,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[status] + head.encode() + b"\r\n" + body)
        self.transport.close()
        self._watch_reader()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
