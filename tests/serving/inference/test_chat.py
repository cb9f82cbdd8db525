"""What a client sees when the queue is full or the engine dies, with an engine that does so on command."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from gpu_assets.settings import Settings
from resources.keys import InferenceKeys
from serving.inference.app import create_app
from tests.serving.inference.support import ADMIN_KEY, READ_KEY, Models, ScriptedEngine

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "champion", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
Check = Callable[[httpx.AsyncClient], Awaitable[None]]
Serve = Callable[[Check], None]


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(token_ids=[70, 71, 72])


@pytest.fixture
def serve(engine: ScriptedEngine, settings: Settings, models: Models) -> Serve:
    """Run a check against the application in this process, with the scripted engine as its champion."""
    keys = InferenceKeys(READ_KEY, ADMIN_KEY)
    app = create_app(settings, keys, models.first, load_engine=lambda folder: engine)

    @asynccontextmanager
    async def client() -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"X-API-Key": READ_KEY}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as http,
        ):
            yield http

    def run(check: Check) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30), client() as http:
                await check(http)

        asyncio.run(bounded())

    return run


def test_a_full_queue_is_429_with_retry_after(serve: Serve, engine: ScriptedEngine, settings: Settings) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        engine.waiting = settings.serving.max_queue
        refused = await http.post(CHAT, json=BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        engine.waiting -= 1
        assert (await http.post(CHAT, json=BODY)).status_code == 200

    serve(check)


def test_a_dead_engine_is_503_and_not_ready_while_health_stays(serve: Serve, engine: ScriptedEngine) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        assert (await http.get("/ready")).status_code == 200
        engine.alive = False
        for response in (await http.get("/ready"), await http.post(CHAT, json=BODY)):
            assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_stopped")
        assert (await http.get("/health")).status_code == 200

    serve(check)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_dies_midway_ends_the_answer_with_an_error(
    stream: bool, serve: Serve, engine: ScriptedEngine
) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        engine.dies_midway = True
        response = await http.post(CHAT, json=BODY | {"stream": stream})
        if stream:
            assert '"code":"engine_stopped"' in response.text.splitlines()[-2]
            assert "[DONE]" not in response.text
        else:
            assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_stopped")

    serve(check)


def test_a_bug_of_ours_is_500_in_the_error_shape(serve: Serve, engine: ScriptedEngine) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        engine.token_ids = ["not", "ids"]  # type: ignore[list-item]
        response = await http.post(CHAT, json=BODY)
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"

    serve(check)


def test_without_a_limit_the_answer_may_fill_the_context(serve: Serve, engine: ScriptedEngine) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        response = await http.post(CHAT, json=BODY | {"max_tokens": None})
        prompt_tokens = response.json()["usage"]["prompt_tokens"]
        assert engine.last_max_tokens == engine.max_context_tokens - prompt_tokens
        exact = engine.max_context_tokens - prompt_tokens
        assert (await http.post(CHAT, json=BODY | {"max_tokens": exact})).status_code == 200
        refused = await http.post(CHAT, json=BODY | {"max_completion_tokens": exact + 1, "max_tokens": None})
        assert refused.json()["error"]["code"] == "context_length_exceeded"

    serve(check)
