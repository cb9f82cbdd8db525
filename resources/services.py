"""Clients of the platform's services: one base with time-outs, retries and typed answers, and a class a service.

Retried, with exponential backoff and jitter, or after the server's `Retry-After`: connection errors,
5xx and 429, for GETs and for POSTs that say they are idempotent. Every failure is a `ServiceError`.
Addresses come from hosts.json, keys from `resources.keys`; the environment is not read, proxies
included.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import httpx
import msgspec
import tenacity

from gpu_assets.errors import ServiceAuthError, ServiceDecodeError, ServiceError, ServiceHttpError, ServiceUnavailable
from gpu_assets.settings import Settings
from resources.keys import inference_keys

CONNECT_TIMEOUT_S = 5.0
MAX_RETRY_AFTER_S = 30.0
READY_POLL_S = 0.1
MAX_BODY_SHOWN = 300

Message = dict[str, str]
Answer = TypeVar("Answer")
_CONNECTION_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)


class ServiceClient:
    """One service at one address. Safe to use from several threads; close it, or use it in a `with`.

    Args:
        timeout_s: how long an answer may take.
        max_retries: attempts after the first.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        service: str,
        base_url: str,
        key: str | None = None,
        *,
        timeout_s: float = 30.0,
        max_retries: int = 5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.service = service
        self.base_url = base_url
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Retryable),
            stop=tenacity.stop_after_attempt(max_retries + 1),
            wait=_wait,
            sleep=sleep,
            retry_error_callback=_give_up,
        )
        self._http = httpx.Client(
            base_url=base_url,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,
        )

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
        return self._decode(path, self._retrying(self._send, "GET", path, None), answer)

    def post(self, path: str, body: Any, answer: type[Answer], *, idempotent: bool = False) -> Answer:
        """POST JSON, and read the answer as a type; retried only where doing it twice is doing it once.

        Raises:
            As `get` does.
        """
        if idempotent:
            return self._decode(path, self._retrying(self._send, "POST", path, body), answer)
        try:
            return self._decode(path, self._send("POST", path, body), answer)
        except _Retryable as failed:
            raise failed.error from failed.__cause__

    def wait_ready(self, timeout_s: float, path: str = "/health") -> None:
        """Return as soon as a GET of this path succeeds.

        Raises:
            ServiceUnavailable: if it did not within the time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._send("GET", path, None)
                return
            except (_Retryable, ServiceUnavailable) as failed:
                if time.monotonic() > deadline:
                    raise ServiceUnavailable(f"not ready after {timeout_s:g} s: {failed}") from None
            time.sleep(READY_POLL_S)

    def _send(self, method: str, path: str, body: Any) -> bytes:
        """The body of one successful exchange; what may be tried again is a `_Retryable`."""
        try:
            response = self._http.request(method, path, json=body)
        except _CONNECTION_ERRORS as error:
            raise _Retryable(self._unavailable(path, f"no connection ({error}); is it running?")) from error
        except httpx.TimeoutException as error:
            raise self._unavailable(path, f"no answer in time ({type(error).__name__}); is it overloaded?") from error
        except httpx.HTTPError as error:
            raise self._unavailable(path, f"{error or type(error).__name__}") from error
        if response.is_success:
            return response.content
        raise self._refusal(path, response)

    def _refusal(self, path: str, response: httpx.Response) -> Exception:
        status, body = response.status_code, response.text
        seen = f"{self._where(path)}: {status}: {_error_text(response)}"
        if status in (401, 403):
            return ServiceAuthError(f"{seen}; check the key that this process was given")
        if status >= 500:
            return _Retryable(ServiceUnavailable(f"{seen}; see the service's log"), _retry_after_s(response))
        error = ServiceHttpError(seen, status=status, body=body)
        return _Retryable(error, _retry_after_s(response)) if status == 429 else error

    def _decode(self, path: str, body: bytes, answer: type[Answer]) -> Answer:
        try:
            return msgspec.json.decode(body, type=answer)
        except msgspec.DecodeError as error:
            shown = body[:MAX_BODY_SHOWN].decode(errors="replace")
            raise ServiceDecodeError(
                f"{self._where(path)}: the answer is not a {answer.__name__}: {error}; it was {shown!r}. "
                "Client and service may be of different versions."
            ) from None

    def _unavailable(self, path: str, what: str) -> ServiceUnavailable:
        return ServiceUnavailable(f"{self._where(path)}: {what}")

    def _where(self, path: str) -> str:
        return f"{self.service} at {self.base_url}{path}"


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the server holds; without one, `loaded` is false and the rest None."""

    loaded: bool
    id: str | None
    name: str | None
    weights_sha256: str | None
    checkpoint_step: int | None
    path: str | None
    template_sha256: str | None
    renderer_digest: str | None
    loaded_at: str | None


class PoolEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A held model and what it is doing."""

    id: str
    name: str
    weights_sha256: str
    checkpoint_step: int | None
    path: str
    renderer_digest: str
    is_champion: bool
    in_flight: int
    owner: str | None


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """All held models."""

    loaded_count: int
    models: tuple[PoolEntry, ...]


class Reloaded(ModelInfo, frozen=True, kw_only=True):
    """The champion after a reload, and how long it took."""

    status: Literal["reloaded"]
    seconds: float


@dataclass(frozen=True)
class ChatAnswer:
    """One answer and the weights that gave it; `finish_reason` is stop, or length where it was cut off."""

    text: str
    finish_reason: str
    model: str
    weights_sha256: str
    completion_tokens: int


class InferenceClient(ServiceClient):
    """The inference server, as the platform sees it: what is loaded here is the platform's, not a person's."""

    def info(self) -> ModelInfo:
        """The champion."""
        return self.get("/models/info", ModelInfo)

    def pool(self) -> Pool:
        """All held models."""
        return self.get("/models/pool", Pool)

    def load(self, path: Path) -> ModelInfo:
        """Hold the model in a folder beside the champion."""
        return self.post("/models/pool/load", _of_platform(path), ModelInfo, idempotent=True)

    def unload(self, model_id: str) -> None:
        """Let the server forget a model that is not the champion."""
        self.post("/models/pool/unload", {"id": model_id}, dict)

    def reload(self, path: Path) -> Reloaded:
        """Make the model in a folder the champion."""
        return self.post("/models/reload", _of_platform(path), Reloaded, idempotent=True)

    def undeploy(self) -> str | None:
        """Have the server serve no model; the weights that it served, None if it served none."""
        return self.post("/models/undeploy", {"id": "champion"}, _Undeployed, idempotent=True).weights_sha256

    def chat(self, messages: Sequence[Message], *, model: str, max_tokens: int, temperature: float = 0.0) -> ChatAnswer:
        """One answer, greedy by default."""
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature}
        completion = self.post("/v1/chat/completions", body, _Completion, idempotent=True)
        choice = completion.choices[0]
        return ChatAnswer(
            text=choice.message.content,
            finish_reason=choice.finish_reason,
            model=completion.model,
            weights_sha256=completion.system_fingerprint,
            completion_tokens=completion.usage.completion_tokens,
        )

    def chat_many(
        self, conversations: Sequence[Sequence[Message]], *, model: str, max_tokens: int, concurrency: int
    ) -> list[ChatAnswer]:
        """Greedy answers in the order of the conversations, at most `concurrency` in flight.

        Raises:
            ServiceError: of the first that fails; those not begun are not asked.
        """
        with ThreadPoolExecutor(max_workers=concurrency) as threads:
            asked = [
                threads.submit(self.chat, conversation, model=model, max_tokens=max_tokens)
                for conversation in conversations
            ]
            try:
                return [answer.result() for answer in asked]
            except ServiceError:
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def inference_client(settings: Settings) -> InferenceClient:
    """The client of hosts.json's inference server, with the admin key."""
    url = settings.hosts.url("inference", settings.hosts.host_id("inference"))
    return InferenceClient("inference server", url, inference_keys(settings).admin, timeout_s=120.0)


OWNER = "platform"


def _of_platform(path: Path) -> dict[str, str]:
    """The body that loads a folder's model as the platform's own."""
    return {"model_path": str(path), "owner": OWNER}


class _Undeployed(msgspec.Struct):
    weights_sha256: str | None


class _AnswerMessage(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _AnswerMessage
    finish_reason: str


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Completion(msgspec.Struct):
    model: str
    system_fingerprint: str
    choices: tuple[_Choice]
    usage: _Usage


class _Retryable(Exception):
    """Carries the error to raise once no attempt is left."""

    def __init__(self, error: ServiceError, retry_after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s


_backoff = tenacity.wait_exponential_jitter(multiplier=0.1, max=5.0, jitter=0.1)


def _wait(state: tenacity.RetryCallState) -> float:
    failed = state.outcome.exception() if state.outcome is not None else None
    if isinstance(failed, _Retryable) and failed.retry_after_s is not None:
        return failed.retry_after_s
    return _backoff(state)


def _give_up(state: tenacity.RetryCallState) -> Any:
    failed = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(failed, _Retryable)
    raise failed.error from failed.__cause__


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds; the header's date form is not sent by our services and is ignored."""
    value = response.headers.get("retry-after", "")
    return min(float(value), MAX_RETRY_AFTER_S) if value.isdecimal() else None


def _error_text(response: httpx.Response) -> str:
    """The sentence in an OpenAI error body, else the beginning of the body."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return repr(response.text[:MAX_BODY_SHOWN])
