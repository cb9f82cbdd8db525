"""Reading a request's body: JSON, whatever content type the client names or leaves out, forms apart.

It is bounded in bytes and time. What is not a JSON object is refused before FastAPI sees it, with a sentence for each
way to be none.
"""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive

from serving.inference.errors import ApiError

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/")
JSON_TYPE = "application/json"


def bounded(receive: Receive, max_bytes: int, timeout_s: float) -> Receive:
    """Receive a body of so many bytes within so many seconds from now; refuse it as soon as it is over either.

    Raises:
        ApiError: 408 or 413, from what is returned.
    """
    num_bytes, is_complete = 0, False
    deadline = asyncio.get_running_loop().time() + timeout_s

    async def receive_bounded() -> Message:
        nonlocal num_bytes, is_complete
        if is_complete:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise _too_late(timeout_s) from None
        is_complete = not message.get("more_body", False)
        num_bytes += len(message.get("body", b""))
        if num_bytes > max_bytes:
            raise too_large(f"more than {max_bytes} bytes", max_bytes)
        return message

    return receive_bounded


def too_large(seen: str, max_bytes: int) -> ApiError:
    """The refusal of a body over the cap."""
    return ApiError(
        413,
        f"the body has {seen}, at most {max_bytes} are taken (serving.max_body_mb); send less",
        code="request_too_large",
    )


def _too_late(timeout_s: float) -> ApiError:
    return ApiError(
        408,
        f"the body was not complete after {timeout_s:g} s (serving.body_timeout_s); send it sooner",
        code="request_timeout",
        headers={"Connection": "close"},
    )


class JsonRoute(APIRoute):
    """A route whose body, if it takes one, is a JSON object."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request))

        return handle_json


class _JsonRequest(Request):
    """A request whose body is read here; to FastAPI its content type is JSON's."""

    def __init__(self, request: Request) -> None:
        scope = {**request.scope, "headers": list(request.scope["headers"])}
        self._named_type = request.headers.get("content-type", "")
        MutableHeaders(scope=scope)["content-type"] = JSON_TYPE
        super().__init__(scope, request.receive)

    async def body(self) -> bytes:
        if self._named_type.strip().lower().startswith(FORM_TYPES):
            raise ApiError(
                415,
                f"the body is a form ({self._named_type[:80]}), a JSON object is wanted; "
                f"send it with Content-Type: {JSON_TYPE}",
                code="unsupported_content_type",
            )
        try:
            body = await super().body()
        except ClientDisconnect:
            raise ApiError(400, "the client left before its body was complete", code="client_disconnected") from None
        if not body.strip():
            raise _bad_body("the request has no body, a JSON object is wanted")
        return body

    async def json(self) -> dict[str, Any]:
        return read_object(await self.body())


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        ApiError: 400, if it is none.
    """
    try:
        value = json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_without_repeats,
            parse_constant=_number,
            parse_float=_number,
        )
    except UnicodeDecodeError as error:
        byte = body[error.start]
        raise _bad_body(f"the body is not UTF-8: byte 0x{byte:02x} at position {error.start}") from None
    except RecursionError:
        raise _bad_body("the body is nested too deeply; no request needs more than a few levels") from None
    except ValueError as error:
        raise _bad_body(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _bad_body(f"the body is a JSON {_KINDS[type(value)]}, a JSON object is wanted")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What a body says twice it may mean either way, and whoever checked it before us may have read the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise _bad_body(f"the body names {twice[:80]!r} twice in one object; leave one")
    return found


def _number(text: str) -> float:
    """A number that JSON has and a float holds."""
    number = float(text)
    if not math.isfinite(number):
        raise _bad_body(f"the body is not JSON: {text[:80]} is no number that can be used")
    return number


_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def _bad_body(sentence: str) -> ApiError:
    return ApiError(400, sentence, code="invalid_body")
