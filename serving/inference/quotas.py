"""How much one read key may ask for at once and in a minute. Admin keys, the platform's own, have no limit.

A request counts until its response has ended, streams included; several answers to one request (`n`) are one.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from gpu_assets.settings import Serving
from resources.keys import Key
from serving.inference.errors import RETRY_AFTER_S, ApiError


class Quotas:
    """What each key has in flight, and asked for within the last minute. Used from one event loop."""

    def __init__(self, serving: Serving) -> None:
        self._max_concurrent = serving.max_concurrent_requests
        self._in_flight: Counter[str] = Counter()
        self._rate = RateLimitItemPerMinute(serving.requests_per_minute) if serving.requests_per_minute else None
        self._window = MovingWindowRateLimiter(MemoryStorage()) if self._rate else None

    @contextmanager
    def take(self, key: Key) -> Iterator[None]:
        """Let a key's request in until the block ends.

        Raises:
            ApiError: 429, if the key has as many in flight as it may, or has asked for as many as it may in a minute.
        """
        if key.access == "admin":
            yield
            return
        self._check_concurrency(key)
        self._check_rate(key)
        self._in_flight[key.name] += 1
        try:
            yield
        finally:
            self._in_flight[key.name] -= 1

    def _check_concurrency(self, key: Key) -> None:
        if 0 < self._max_concurrent <= self._in_flight[key.name]:
            raise ApiError(
                429,
                f"the key {key.name} has {self._max_concurrent} requests in flight, which is all it may have "
                "(serving.max_concurrent_requests); try again when one has ended",
                code="too_many_concurrent_requests",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )

    def _check_rate(self, key: Key) -> None:
        if self._rate is None or self._window is None or self._window.hit(self._rate, key.name):
            return
        free_at = self._window.get_window_stats(self._rate, key.name).reset_time
        wait_s = max(1, math.ceil(free_at - time.time()))
        raise ApiError(
            429,
            f"the key {key.name} has made {self._rate.amount} requests within a minute, which is all it may make "
            f"(serving.requests_per_minute); try again in {wait_s} s",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(wait_s)},
        )
