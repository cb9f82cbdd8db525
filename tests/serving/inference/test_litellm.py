"""litellm as a second real client, which many tools are built on; it reaches nothing but the server."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.inference.support import QUESTION, READ_KEY, Server, run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
"""Of its own types."""


@pytest.fixture(scope="module")
def litellm() -> Any:
    """The library, with its own list of models instead of the network's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        patch.setattr(litellm, "telemetry", False, raising=False)
        yield litellm


@pytest.fixture(autouse=True)
def own_event_loop() -> Iterator[None]:
    """For its logging outside of any loop: it makes one where there is none, and closes it at exit only."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def refuse(host: Any, *arguments: Any, **named: Any) -> Any:
        assert host in ("127.0.0.1", b"127.0.0.1"), f"{host} was looked up"
        return resolve(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def asked(server: Server) -> dict[str, Any]:
    return {
        "model": "openai/champion",
        "messages": QUESTION,
        "api_base": f"{server.url}/v1",
        "api_key": READ_KEY,
        "max_tokens": 12,
        "temperature": 0,
        "num_retries": 0,
    }


def test_litellm_chats(litellm: Any, asked: dict[str, Any], server: Server) -> None:
    answer = litellm.completion(**asked)
    own = server.openai().chat.completions.create(model="champion", messages=QUESTION, max_tokens=12, temperature=0)
    assert answer.choices[0].message.content == own.choices[0].message.content
    assert answer.usage.completion_tokens == 12
    assert answer.system_fingerprint == own.system_fingerprint


def test_litellm_streams_with_usage(litellm: Any, asked: dict[str, Any]) -> None:
    whole = litellm.completion(**asked)
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    usages = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None) is not None]
    assert usages[-1].completion_tokens == 12


def test_litellm_asks_for_several_answers_with_log_probabilities(litellm: Any, asked: dict[str, Any]) -> None:
    answer = litellm.completion(**asked, n=2, seed=1, logprobs=True, top_logprobs=2)
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.content) == 12


def test_litellm_continues_raw_texts(litellm: Any, asked: dict[str, Any]) -> None:
    raw = {name: value for name, value in asked.items() if name != "messages"}
    answer = litellm.text_completion(**raw | {"model": "text-completion-openai/champion", "prompt": "add one"})
    assert answer.usage.completion_tokens == 12
    assert answer.choices[0].text


def test_litellm_asks_many_at_once(litellm: Any, asked: dict[str, Any]) -> None:
    async def check() -> list[Any]:
        return await asyncio.gather(*(litellm.acompletion(**asked, seed=seed) for seed in range(8)))

    answers = run(check())
    assert len({answer.choices[0].message.content for answer in answers}) == 1


def test_litellm_raises_its_own_exceptions(litellm: Any, asked: dict[str, Any]) -> None:
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**asked | {"api_key": "wrong"})
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**asked | {"max_tokens": -1})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**asked | {"model": "openai/nobody"})
