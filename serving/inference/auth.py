"""The gate before every route: key, quota, size and time of the body, request id.

Deny by default: only `OPEN_PATHS` need no key, everything else, unknown paths included, needs at
least a read key; `ADMIN_PATHS` need an admin key, which may do all that a read key may. Paths are compared as they are
routed, decoded. A route's pattern also passes a path that ends in a line break, so a path with a character that no
route of ours has is nobody's.
"""

import re
from contextlib import ExitStack

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpu_assets.settings import Serving
from resources.keys import InferenceKeys, Key
from serving.inference.body import bounded, too_large
from serving.inference.errors import REQUEST_ID_HEADER, ApiError, new_request_id, not_found
from serving.inference.metrics import Metrics
from serving.inference.quotas import Quotas

OPEN_PATHS = frozenset({"/health", "/ready", "/version"})
ADMIN_PATHS = frozenset(
    {
        "/gpu",
        "/models/pool/load",
        "/models/pool/unload",
        "/models/register",
        "/models/reload",
        "/models/set_active",
        "/models/undeploy",
        "/system",
    }
)
QUOTA_PREFIX = "/v1/"

_PATH = re.compile(r"[\x20-\x7e\x80-\U0010ffff]*")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Gate:
    """ASGI middleware that lets a request through, or answers why not."""

    def __init__(self, app: ASGIApp, keys: InferenceKeys, serving: Serving, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._quotas = Quotas(serving)
        self._max_body_bytes = serving.max_body_mb * 2**20
        self._body_timeout_s = serving.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        send = _with_request_id(send, request_id)
        with ExitStack() as held:
            try:
                self._admit(scope["path"], headers, held)
            except ApiError as refusal:
                self._metrics.refused(refusal.status_code, refusal.code)
                await _refuse(refusal, headers)(scope, receive, send)
                return
            await self._app(scope, bounded(receive, self._max_body_bytes, self._body_timeout_s), send)

    def _admit(self, path: str, headers: Headers, held: ExitStack) -> None:
        """Raise why a request is refused, or hold its part of its key's quota."""
        if path not in OPEN_PATHS:
            key = self._key(path, headers)
            if path.startswith(QUOTA_PREFIX):
                self._metrics.requested(key.name)
                held.enter_context(self._quotas.take(key))
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise too_large(f"{length} bytes", self._max_body_bytes)

    def _key(self, path: str, headers: Headers) -> Key:
        """The key that a request came with, if it opens the path."""
        presented = _presented_key(headers)
        key = self._keys.find(presented) if presented else None
        if key is None:
            raise _unauthorized(presented)
        if not _PATH.fullmatch(path):
            raise not_found()
        if path in ADMIN_PATHS and key.access != "admin":
            raise ApiError(403, f"{path} needs an admin key, the key given is a read key", code="admin_only")
        return key


def _presented_key(headers: Headers) -> bytes:
    """The bytes that were sent: a key need not be ASCII."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer" and token.strip()
    return (token.strip() if is_bearer else headers.get("x-api-key", "")).encode("latin-1")


def _unauthorized(presented: bytes) -> ApiError:
    seen = "the key given is not valid" if presented else "no key was given"
    return ApiError(
        401,
        f"{seen}; send Authorization: Bearer KEY or X-API-Key: KEY with a read or an admin key",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _refuse(refusal: ApiError, headers: Headers) -> ASGIApp:
    """Its answer. A client that waits to be told to send its body is told to go: it may or may not send it now."""
    response = refusal.response()
    if "expect" in headers:
        response.headers["connection"] = "close"
    return response


def _request_id(headers: Headers) -> str:
    """The client's, if it can be sent back as it is."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()


def _with_request_id(send: Send, request_id: str) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
        await send(message)

    return send_with_id
