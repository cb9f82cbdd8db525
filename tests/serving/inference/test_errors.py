"""A bug of ours is answered as every refusal is, and can be found in the log by what the client saw."""

from collections.abc import AsyncGenerator

import httpx
import pytest

from serving.inference.engine import Generation, Tokens
from tests.serving.inference.support import CHAT, VALID, ScriptedEngine, Serve, error_of


async def _fail(_: Generation) -> AsyncGenerator[Tokens, None]:
    raise ZeroDivisionError("a bug")
    yield


def test_a_bug_is_500_with_the_requests_id_and_nothing_of_its_inside(
    serve: Serve, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        engine.generate = _fail  # type: ignore[method-assign]
        response = await http.post(CHAT, json=VALID, headers={"X-Request-ID": "mine"})
        assert (response.status_code, error_of(response)["type"]) == (500, "server_error")
        assert "a bug" not in response.text
        assert response.headers["x-request-id"] == "mine"
        counted = 'gpu_assets:requests_refused_total{code="internal_error",status="500"} 1.0'
        assert counted in (await http.get("/metrics")).text

    serve(check)
    assert "ZeroDivisionError: a bug" in caplog.text
    assert "mine" in caplog.text
