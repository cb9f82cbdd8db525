"""The client for asyncio: the same exchanges, and another driver."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

import httpx
import tenacity

from gpu_assets.errors import ServiceError
from resources.services.base import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S, BaseClient
from resources.services.exchange import Answer, Call, IdempotencyKey, http_options, retry_options


class AsyncServiceClient(BaseClient):
    """`ServiceClient` with methods to await; close it with `aclose`, or use it in an `async with`."""

    def __init__(
        self,
        service: str,
        base_url: str,
        key: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        health_path: str = "/health",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(service, base_url, key, timeout_s=timeout_s, max_retries=max_retries, health_path=health_path)
        self._retrying = tenacity.AsyncRetrying(sleep=sleep, **retry_options(max_retries))
        self._http = httpx.AsyncClient(**http_options(base_url, key, timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def get(self, path: str, answer: type[Answer]) -> Answer:
        """As `ServiceClient.get`."""
        return await self._ask(self._call("GET", path), answer)

    async def post(
        self,
        path: str,
        body: Any,
        answer: type[Answer],
        *,
        idempotent: bool = False,
        idempotency_key: IdempotencyKey = None,
    ) -> Answer:
        """As `ServiceClient.post`."""
        call = self._call("POST", path, body, idempotent=idempotent, idempotency_key=idempotency_key)
        return await self._ask(call, answer)

    async def get_json(self, path: str) -> Any:
        """As `ServiceClient.get_json`."""
        return await self._ask(self._call("GET", path), Any)

    async def post_json(
        self, path: str, json: Any = None, *, idempotent: bool = False, idempotency_key: IdempotencyKey = None
    ) -> Any:
        """As `ServiceClient.post_json`."""
        return await self.post(path, json, Any, idempotent=idempotent, idempotency_key=idempotency_key)

    async def put_json(self, path: str, json: Any = None) -> Any:
        """As `ServiceClient.put_json`."""
        return await self._ask(self._call("PUT", path, json), Any)

    async def delete_json(self, path: str) -> Any:
        """As `ServiceClient.delete_json`."""
        return await self._ask(self._call("DELETE", path), Any)

    async def health_check(self) -> bool:
        """As `ServiceClient.health_check`."""
        try:
            await self._content(self._call("GET", self._health_path, idempotent=False))
        except ServiceError:
            return False
        return True

    async def _ask(self, call: Call, answer: type[Answer]) -> Answer:
        return call.decode(await self._retrying(self._content, call), answer)

    async def _content(self, call: Call) -> bytes:
        """The body of one successful exchange."""
        with call.sending():
            response = await self._http.request(**call.request)
        return call.content_of(response)
