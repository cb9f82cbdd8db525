"""What one read key may ask for at once and in a minute; admin keys have no limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from gpu_assets.settings import Serving, Settings
from resources.keys import InferenceKeys
from serving.inference.app import create_app
from serving.inference.errors import ApiError
from serving.inference.quotas import Quotas
from tests.serving.inference.support import ADMIN_KEY, CHAT, VALID, Models, ScriptedEngine, error_of, run, started

READ, OTHER = "first-read-key", "second-read-key"
KEYS = InferenceKeys.of([READ, OTHER], ADMIN_KEY)


@asynccontextmanager
async def served(
    settings: Settings, models: Models, engine: ScriptedEngine, **serving: int
) -> AsyncIterator[httpx.AsyncClient]:
    changed = settings.model_copy(update={"serving": Serving(**serving)})  # type: ignore[arg-type]
    app = create_app(changed, KEYS, models.first, load_engine=lambda folder: engine)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        started(app),
        httpx.AsyncClient(transport=transport, base_url="http://server", timeout=30) as client,
    ):
        yield client


def key(value: str) -> dict[str, str]:
    return {"X-API-Key": value}


def test_a_key_that_used_up_its_minute_is_429_and_another_is_not(
    settings: Settings, models: Models, engine: ScriptedEngine
) -> None:
    async def check() -> None:
        async with served(settings, models, engine, requests_per_minute=3) as client:
            answers = [await client.get("/v1/models", headers=key(READ)) for _ in range(5)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
            error = error_of(answers[-1])
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            assert "the key read-1 has made 3 requests within a minute" in error["message"]
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
            assert (await client.get("/v1/models", headers=key(OTHER))).status_code == 200
            admin = [await client.get("/v1/models", headers=key(ADMIN_KEY)) for _ in range(9)]
            assert {answer.status_code for answer in admin} == {200}
            beside = [await client.get(path, headers=key(READ)) for path in ("/health", "/models/info", "/metrics")]
            assert {answer.status_code for answer in beside} == {200}

    run(check())


def test_the_wait_that_is_told_is_long_enough_and_no_longer_than_a_second_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time is told to both by hand: a minute is too long for a test."""
    now = [1000.25]
    monkeypatch.setattr("time.time", lambda: now[0])
    limited, read = Quotas(Serving(requests_per_minute=2)), KEYS.of_access("read")[0]

    def take() -> int:
        try:
            with limited.take(read):
                return 0
        except ApiError as refused:
            assert refused.headers is not None
            return int(refused.headers["Retry-After"])

    assert take() == 0
    now[0] += 10
    assert take() == 0
    now[0] += 5.5
    wait_s = take()
    assert wait_s == 45
    now[0] += wait_s - 1
    assert take() == 1
    now[0] += 1
    assert take() == 0
    assert take() == 10


def test_a_key_with_too_much_in_flight_is_429_until_a_stream_has_ended(
    settings: Settings, models: Models, engine: ScriptedEngine
) -> None:
    async def check() -> None:
        body = VALID | {"stream": True, "max_tokens": None}
        async with served(settings, models, engine, max_concurrent_requests=2) as client:
            engine.endless = True  # no sooner: the server asks it something before it serves it
            streams = [asyncio.create_task(client.post(CHAT, json=body, headers=key(READ))) for _ in range(2)]
            async with asyncio.timeout(20):
                while engine.running < 2:
                    await asyncio.sleep(0.01)
            refused = await client.get("/v1/models", headers=key(READ))
            assert (refused.status_code, error_of(refused)["code"]) == (429, "too_many_concurrent_requests")
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/v1/models", headers=key(OTHER))).status_code == 200
            assert (await client.get("/v1/models", headers=key(ADMIN_KEY))).status_code == 200
            engine.endless = False
            await asyncio.gather(*streams)
            assert (await client.get("/v1/models", headers=key(READ))).status_code == 200

    run(check())


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"model": "nobody", "messages": []}'])
def test_a_refused_request_gives_its_place_back(
    body: bytes, settings: Settings, models: Models, engine: ScriptedEngine
) -> None:
    async def check() -> None:
        async with served(settings, models, engine, max_concurrent_requests=1) as client:
            for _ in range(3):
                assert (await client.post(CHAT, content=body, headers=key(READ))).status_code == 400

    run(check())


def test_requests_are_counted_by_the_name_of_their_key(
    settings: Settings, models: Models, engine: ScriptedEngine
) -> None:
    async def check() -> None:
        async with served(settings, models, engine, requests_per_minute=1) as client:
            for value in (READ, READ, OTHER, ADMIN_KEY, "nobody's"):
                await client.get("/v1/models", headers=key(value))
            text = (await client.get("/metrics", headers=key(READ))).text
            for line in (
                'requests_total{key_name="read-1"} 2.0',
                'requests_total{key_name="read-2"} 1.0',
                'requests_total{key_name="admin-1"} 1.0',
                'requests_refused_total{code="rate_limit_exceeded",status="429"} 1.0',
                'requests_refused_total{code="invalid_api_key",status="401"} 1.0',
            ):
                assert f"gpu_assets:{line}" in text
            assert not any(value in text for value in (READ, OTHER, ADMIN_KEY))

    run(check())
