"""What a client sees when the queue is full or the engine dies, with an engine that does so on command."""

from typing import Any

import httpx
import pytest

from gpu_assets.settings import Settings
from tests.serving.inference.support import CHAT, ScriptedEngine, Serve

BODY: dict[str, Any] = {"model": "champion", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


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
        engine.alive, engine.broken = False, True
        for response in (await http.get("/ready"), await http.post(CHAT, json=BODY)):
            assert response.status_code == 503
            assert response.json()["error"]["code"] in ("engine_stopped", "model_loading")
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
