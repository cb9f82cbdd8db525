"""The gate before every route: key, size of the body, request id.

Deny by default: only `OPEN_PATHS` need no key, everything else, unknown paths included, needs at
least the read key; `ADMIN_PATHS` need the admin key, which may do all that the read key may.
"""

import hmac
import uuid
from typing import Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resources.keys import InferenceKeys
from serving.inference.errors import ApiError

OPEN_PATHS = frozenset({"/health", "/ready"})
ADMIN_PATHS = frozenset({"/models/pool/load", "/models/pool/unload", "/models/reload", "/models/undeploy"})
MAX_BODY_BYTES = 2**20
REQUEST_ID_HEADER = "x-request-id"

Access = Literal["read", "admin"]


def access_of(headers: Headers, keys: InferenceKeys) -> Access | None:
    """What the key of a request allows, compared in constant time; no key is never a key."""
    key = _presented_key(headers).encode()
    if not key:
        return None
    admin = hmac.compare_digest(key, keys.admin.encode())
    read = hmac.compare_digest(key, keys.read.encode())
    if admin:
        return "admin"
    return "read" if read else None


class Gate:
    """ASGI middleware that lets a request through, or answers why not."""

    def __init__(self, app: ASGIApp, keys: InferenceKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = _with_request_id(send, headers.get(REQUEST_ID_HEADER) or f"req-{uuid.uuid4().hex}")
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, _capped(receive), send)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        if path not in OPEN_PATHS:
            access = access_of(headers, self._keys)
            if access is None:
                return _unauthorized(headers)
            if path in ADMIN_PATHS and access != "admin":
                return ApiError(403, f"{path} needs the admin key, the key given is the read key", code="admin_only")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            return _too_large(f"{length} bytes")
        return None


def _presented_key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key", "")


def _unauthorized(headers: Headers) -> ApiError:
    seen = "the key given is not valid" if _presented_key(headers) else "no key was given"
    return ApiError(
        401,
        f"{seen}; send Authorization: Bearer KEY or X-API-Key: KEY with the read or the admin key",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _too_large(seen: str) -> ApiError:
    return ApiError(413, f"the body has {seen}, at most {MAX_BODY_BYTES} are taken", code="request_too_large")


def _capped(receive: Receive) -> Receive:
    """Refuse a body without a content length as soon as it is over the cap."""
    total = 0

    async def receive_capped() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > MAX_BODY_BYTES:
            raise _too_large(f"more than {MAX_BODY_BYTES} bytes")
        return message

    return receive_capped


def _with_request_id(send: Send, request_id: str) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
        await send(message)

    return send_with_id
