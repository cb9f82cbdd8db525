"""Reading a request's body: JSON, whatever content type the client names or leaves out, forms apart.

What is not a JSON object is refused before FastAPI sees it, with a sentence for each way to be none.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.responses import Response

from serving.inference.errors import ApiError

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/")
JSON_TYPE = "application/json"


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
        body = await super().body()
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
        value = json.loads(body.decode("utf-8-sig"))
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


_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def _bad_body(sentence: str) -> ApiError:
    return ApiError(400, sentence, code="invalid_body")
