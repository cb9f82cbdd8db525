"""The client for threads."""

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import httpx
import tenacity

from gpu_assets.errors import ServiceError, ServiceUnavailable
from gpu_assets.settings import Settings
from resources.services.base import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S, BaseClient
from resources.services.exchange import (
    Answer,
    Call,
    IdempotencyKey,
    Retryable,
    http_options,
    request_timeout,
    retry_options,
)

READY_POLL_S = 0.1


class ServiceClient(BaseClient):
    """One service at one address. Safe to use from several threads; close it, or use it in a `with`.

    GET, PUT and DELETE are tried again, as HTTP defines them to be idempotent; a POST is only where it is said to be,
    by `idempotent` for what is so by nature, or by a key that the service knows a repeated call by.

    Args:
        sleep: waits between attempts; the others are `BaseClient`'s.
    """

    def __init__(
        self,
        service: str,
        base_url: str,
        key: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        health_path: str = "/health",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(service, base_url, key, timeout_s=timeout_s, max_retries=max_retries, health_path=health_path)
        self._retrying = tenacity.Retrying(sleep=sleep, **retry_options(max_retries))
        self._http = httpx.Client(**http_options(base_url, key, timeout_s))
        weakref.finalize(self, self._http.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def get(self, path: str, answer: type[Answer]) -> Answer:
        """GET, and read the answer as a type.

        Raises:
            ServiceUnavailable: no connection, a time-out, or 5xx after all retries.
            ServiceAuthError: 401 or 403.
            ServiceHttpError: any other status that is not 2xx.
            ServiceDecodeError: the body is not JSON of this type.
        """
        return self._ask(self._call("GET", path), answer)

    def post(
        self,
        path: str,
        body: Any,
        answer: type[Answer],
        *,
        idempotent: bool = False,
        idempotency_key: IdempotencyKey = None,
    ) -> Answer:
        """POST JSON, and read the answer as a type; sent once, unless it is idempotent.

        Args:
            idempotency_key: sent as `Idempotency-Key`; True makes one for this call.

        Raises:
            As `get` does.
        """
        call = self._call("POST", path, body, idempotent=idempotent, idempotency_key=idempotency_key)
        return self._ask(call, answer)

    def get_json(self, path: str) -> Any:
        """GET any JSON; raises as `get` does."""
        return self._ask(self._call("GET", path), Any)

    def post_json(
        self, path: str, json: Any = None, *, idempotent: bool = False, idempotency_key: IdempotencyKey = None
    ) -> Any:
        """POST JSON for any JSON, as `post` does; None for an answer without content."""
        return self.post(path, json, Any, idempotent=idempotent, idempotency_key=idempotency_key)

    def put_json(self, path: str, json: Any = None) -> Any:
        """PUT JSON for any JSON; None for an answer without content. Raises as `get` does."""
        return self._ask(self._call("PUT", path, json), Any)

    def delete_json(self, path: str) -> Any:
        """DELETE for any JSON; None for an answer without content. Raises as `get` does."""
        return self._ask(self._call("DELETE", path), Any)

    def get_text(self, path: str) -> str:
        """GET what is no JSON; raises as `get` does."""
        return self._retrying(self._content, self._call("GET", path)).decode(errors="replace")

    def health_check(self) -> bool:
        """Whether the service's health path answers with success, asked once."""
        try:
            self._content(self._call("GET", self._health_path, idempotent=False))
        except ServiceError:
            return False
        return True

    def wait_ready(self, timeout_s: float, path: str = "/health") -> None:
        """Return as soon as a GET of this path succeeds; an attempt may be silent for what is left of the time.

        Raises:
            ServiceUnavailable: if it did not within the time.
        """
        call, deadline = self._call("GET", path), time.monotonic() + timeout_s
        while True:
            left_s = max(deadline - time.monotonic(), READY_POLL_S)
            try:
                self._content(call, min(left_s, self.timeout_s))
                return
            except (Retryable, ServiceUnavailable) as failed:
                if time.monotonic() > deadline:
                    raise ServiceUnavailable(f"not ready after {timeout_s:g} s: {failed}") from None
            time.sleep(READY_POLL_S)

    @contextmanager
    def _stream(self, call: Call) -> Iterator[Iterator[bytes]]:
        """The body of an answer as it comes; leaving the block closes the connection. Retried until it begins."""
        response = self._retrying(self._open, call)
        try:
            yield self._pieces(call, response)
        finally:
            response.close()

    def _ask(self, call: Call, answer: type[Answer]) -> Answer:
        return call.decode(self._retrying(self._content, call), answer)

    def _content(self, call: Call, timeout_s: float | None = None) -> bytes:
        """The body of one successful exchange; without a time-out, the client's is taken."""
        timeout = self._http.timeout if timeout_s is None else request_timeout(timeout_s)
        with call.sending():
            response = self._http.request(**call.request, timeout=timeout)
        return call.content_of(response)

    def _open(self, call: Call) -> httpx.Response:
        """A successful answer whose body is not read yet."""
        with call.sending():
            response = self._http.send(self._http.build_request(**call.request), stream=True)
            if not response.is_success:
                response.read()
                response.close()
        if not response.is_success:
            call.content_of(response)
        return response

    def _pieces(self, call: Call, response: httpx.Response) -> Iterator[bytes]:
        try:
            with call.sending():
                yield from response.iter_bytes()
        except Retryable as failed:
            raise call.unavailable(f"the answer ended midway ({failed.__cause__})") from failed.__cause__


def get_service_client(service: str, settings: Settings | None = None) -> ServiceClient:
    """The client of a service of hosts.json; see `BaseClient.of_service`."""
    return ServiceClient.of_service(service, settings)
