"""One exchange with a service, without its transport: what is sent, what the answer means, and whether to try again.

The drivers, `client` for threads and `aio` for asyncio, send a `Call` and pass what came to it. Tried again, after an
exponential backoff with jitter or after the server's `Retry-After`: no connection, a connection that ends before the
answer does, 5xx and 429, where doing it twice is doing it once. An answer that takes too long is not asked for
again: the service is still at work on it.
"""

import email.utils
import random
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn, TypeVar

import httpx
import msgspec
import tenacity

from gpu_assets.errors import ServiceAuthError, ServiceDecodeError, ServiceError, ServiceHttpError, ServiceUnavailable

CONNECT_TIMEOUT_S = 5.0
MAX_RETRY_AFTER_S = 60.0
"""A service that asks for a longer wait is not waited for."""
MAX_BODY_SHOWN = 300
BACKOFF_S, MAX_BACKOFF_S, JITTER = 0.1, 4.0, 0.25
IDEMPOTENCY_HEADER = "Idempotency-Key"
NO_CONTENT = b"null"
"""What 204 means in JSON."""

Answer = TypeVar("Answer")
Method = Literal["GET", "POST", "PUT", "DELETE"]
IdempotencyKey = str | Literal[True] | None
"""True makes a key for one call; all its attempts carry the same."""
_CONNECTION_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)


class Retryable(Exception):
    """Carries the error to raise once no attempt is left."""

    def __init__(self, error: ServiceError, retry_after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Call:
    """What is asked of which service; `idempotent` says that it may be sent again."""

    where: str
    method: Method
    path: str
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotent: bool = True

    @property
    def request(self) -> dict[str, Any]:
        """The arguments of httpx's `build_request`."""
        return {"method": self.method, "url": self.path, "json": self.json, "headers": self.headers}

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Around the sending of it: what httpx raises becomes ours.

        Raises:
            Retryable: if it may be sent again.
            ServiceUnavailable: if not.
        """
        try:
            yield
        except _CONNECTION_ERRORS as error:
            found = self.unavailable(f"no connection ({error or type(error).__name__}); is it running?")
            self._fail(found, error)
        except httpx.TimeoutException as error:
            raise self.unavailable(f"no answer in time ({type(error).__name__}); is it overloaded?") from error
        except httpx.HTTPError as error:
            raise self.unavailable(f"{error or type(error).__name__}") from error

    def content_of(self, response: httpx.Response) -> bytes:
        """The body of a response that was read.

        Raises:
            Retryable: 5xx or 429, if it may be sent again.
            ServiceError: any other status that is not 2xx.
        """
        if response.is_success:
            return NO_CONTENT if response.status_code == httpx.codes.NO_CONTENT else response.content
        status, body = response.status_code, response.text
        seen = f"{self.where}: {status}: {_sentence_in(response)}"
        if status in (401, 403):
            raise ServiceAuthError(f"{seen}; check the key that this process was given")
        if status < 500 and status != 429:
            raise ServiceHttpError(seen, status=status, body=body)
        wait_s = retry_after_s(response.headers, datetime.now(UTC))
        if wait_s is not None and wait_s > MAX_RETRY_AFTER_S:
            seen += f"; it asks to wait {wait_s:.0f} s, and this client waits at most {MAX_RETRY_AFTER_S:.0f} s"
        if status == 429:
            self._fail(ServiceHttpError(seen, status=status, body=body), None, wait_s)
        self._fail(ServiceUnavailable(f"{seen}; see the service's log", status=status, body=body), None, wait_s)

    def decode(self, body: bytes, answer: type[Answer]) -> Answer:
        """The answer as a type.

        Raises:
            ServiceDecodeError: if it is not JSON of this type.
        """
        try:
            return msgspec.json.decode(body, type=answer)
        except msgspec.DecodeError as error:
            raise self.undecodable(body, f"the answer is not a {_name_of(answer)}: {error}") from None

    def undecodable(self, body: bytes, what: str) -> ServiceDecodeError:
        shown = body[:MAX_BODY_SHOWN].decode(errors="replace")
        return ServiceDecodeError(
            f"{self.where}: {what}; it was {shown!r}. Client and service may be of different versions."
        )

    def unavailable(self, what: str) -> ServiceUnavailable:
        return ServiceUnavailable(f"{self.where}: {what}")

    def _fail(self, error: ServiceError, cause: Exception | None, wait_s: float | None = None) -> NoReturn:
        if self.idempotent and (wait_s is None or wait_s <= MAX_RETRY_AFTER_S):
            raise Retryable(error, wait_s) from cause
        raise error from cause


def idempotency(key: IdempotencyKey) -> dict[str, str]:
    """The headers that let a service know a repeated call; none without a key."""
    if key is None:
        return {}
    return {IDEMPOTENCY_HEADER: str(uuid.uuid4()) if key is True else key}


def http_options(base_url: str, key: str | None, timeout_s: float) -> dict[str, Any]:
    """The arguments of httpx's clients; as many connections as there are calls, and no proxy."""
    return {
        "base_url": base_url,
        "headers": {} if key is None else {"Authorization": f"Bearer {key}"},
        "timeout": request_timeout(timeout_s),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
        "trust_env": False,
    }


def request_timeout(timeout_s: float) -> httpx.Timeout:
    """How long a service may take to accept a connection, and then be silent."""
    return httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s), pool=None)


def retry_options(max_retries: int) -> dict[str, Any]:
    """The arguments of tenacity's `Retrying` and `AsyncRetrying`."""
    return {
        "retry": tenacity.retry_if_exception_type(Retryable),
        "stop": tenacity.stop_after_attempt(max_retries + 1),
        "wait": wait_s,
        "retry_error_callback": _give_up,
    }


def wait_s(state: tenacity.RetryCallState) -> float:
    """Seconds until the next attempt: what the server asked for, else the backoff."""
    failed = state.outcome.exception() if state.outcome is not None else None
    if isinstance(failed, Retryable) and failed.retry_after_s is not None:
        return failed.retry_after_s
    return _exponential(state) * random.uniform(1 - JITTER, 1 + JITTER)


def retry_after_s(headers: httpx.Headers, now: datetime) -> float | None:
    """Seconds that `Retry-After` asks for, given as seconds or as a date; None without a header that can be read.

    A date is compared with the server's own `Date`, where it sends one: the clocks may differ.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    until = _date(value)
    if until is None:
        return None
    return max(0.0, (until - (_date(headers.get("date", "")) or now)).total_seconds())


_exponential = tenacity.wait_exponential(multiplier=BACKOFF_S, max=MAX_BACKOFF_S)


def _date(value: str) -> datetime | None:
    try:
        found = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _give_up(state: tenacity.RetryCallState) -> NoReturn:
    failed = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(failed, Retryable)
    raise failed.error from failed.__cause__


def _sentence_in(response: httpx.Response) -> str:
    """The sentence in an OpenAI error body, else the beginning of the body."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return repr(response.text[:MAX_BODY_SHOWN])


def _name_of(answer: Any) -> str:
    return "JSON value" if answer is Any else str(getattr(answer, "__name__", answer))
