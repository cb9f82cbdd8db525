"""Raw completions: prompts in all four forms, echoed and continued as they are."""

import json
from typing import Any

import httpx
import pytest

from gpu_assets.base_model.tiny import build_tokenizer
from tests.serving.inference.support import COMPLETIONS, ScriptedEngine, Serve, Server, error_of, events_of

TOKENIZER = build_tokenizer()
IDS = TOKENIZER.encode("and it").ids
OTHER = TOKENIZER.encode("or").ids
BODY: dict[str, Any] = {"model": "champion", "prompt": "and it", "max_tokens": 4, "temperature": 0}


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(token_ids=[70, 71, 72, 471], stepwise=True)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("and it", [IDS]),
        (["and it", "or"], [IDS, OTHER]),
        (IDS, [IDS]),
        ([IDS, OTHER], [IDS, OTHER]),
        ("<|im_start|>user\nand it", [[470, *TOKENIZER.encode("user\nand it").ids]]),
    ],
)
def test_a_prompt_reaches_the_engine_as_it_is(
    prompt: Any, wanted: list[list[int]], serve: Serve, engine: ScriptedEngine
) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        engine.asked.clear()
        answer = (await http.post(COMPLETIONS, json=BODY | {"prompt": prompt})).json()
        assert sorted(asked.prompt_ids for asked in engine.asked) == sorted(wanted)
        assert answer["usage"]["prompt_tokens"] == sum(map(len, wanted))
        assert [choice["index"] for choice in answer["choices"]] == list(range(len(wanted)))
        assert (answer["object"], answer["id"][:5]) == ("text_completion", "cmpl-")

    serve(check)


def test_the_answers_to_several_prompts_come_in_their_order(serve: Serve) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        asked = BODY | {"prompt": ["and it", "or"], "n": 2, "echo": True}
        texts = [choice["text"] for choice in (await http.post(COMPLETIONS, json=asked)).json()["choices"]]
        assert texts == ["and itghi", "and itghi", "orghi", "orghi"]

    serve(check)


@pytest.mark.parametrize("prompt", ["and <|im_start|>", [*IDS, 470]])
def test_an_echo_is_the_prompt_whole_and_streamed(prompt: Any, serve: Serve) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        asked = BODY | {"prompt": prompt, "echo": True}
        whole = (await http.post(COMPLETIONS, json=asked)).json()["choices"][0]["text"]
        assert whole == ("and <|im_start|>ghi" if isinstance(prompt, str) else "and it<|im_start|>ghi")
        events = events_of(await http.post(COMPLETIONS, json=asked | {"stream": True}))
        assert "".join(event["choices"][0]["text"] for event in events) == whole

    serve(check)


def test_a_stream_is_the_plain_answer_in_pieces_with_usage_only_where_it_is_asked_for(serve: Serve) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        plain = (await http.post(COMPLETIONS, json=BODY)).json()
        with_usage = BODY | {"stream": True, "stream_options": {"include_usage": True}}
        *events, last = events_of(await http.post(COMPLETIONS, json=with_usage))
        assert "".join(event["choices"][0]["text"] for event in events) == plain["choices"][0]["text"] == "ghi"
        assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "stop"]
        assert (last["choices"], last["usage"]) == ([], plain["usage"])
        assert [event["usage"] for event in events] == [None] * 4
        assert not any(
            "usage" in event for event in events_of(await http.post(COMPLETIONS, json=BODY | {"stream": True}))
        )

    serve(check)


def test_without_a_limit_sixteen_tokens_are_asked_for(serve: Serve, engine: ScriptedEngine) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        await http.post(COMPLETIONS, json=BODY | {"max_tokens": None})
        assert engine.last_max_tokens == 16

    serve(check)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no prompt": ({"prompt": None}, "prompt", "invalid_value"),
    "an empty text": ({"prompt": ""}, "prompt", "invalid_value"),
    "no prompts": ({"prompt": []}, "prompt", "invalid_value"),
    "an empty list of ids": ({"prompt": [[1], []]}, "prompt", "invalid_value"),
    "texts and ids": ({"prompt": ["a", 1]}, "prompt", "invalid_value"),
    "booleans": ({"prompt": [True]}, "prompt", "invalid_value"),
    "an id that is no token": ({"prompt": [1, 476]}, "prompt", "invalid_value"),
    "an id below nothing": ({"prompt": [1, -1]}, "prompt", "invalid_value"),
    "half of a surrogate pair": ({"prompt": "\ud800"}, "prompt", "invalid_value"),
    "too many prompts": ({"prompt": ["a"] * 129}, "prompt", "invalid_value"),
    "too many answers": ({"prompt": ["a"] * 10, "n": 16}, "prompt", "invalid_value"),
    "more than the context": ({"max_tokens": 5000}, "prompt", "context_length_exceeded"),
    "a long prompt": ({"prompt": "long " * 5000}, "prompt", "context_length_exceeded"),
    "an echo with log-probabilities": ({"echo": True, "logprobs": 1}, "echo", "invalid_value"),
    "the best of two": ({"best_of": 2}, "best_of", "unsupported_parameter"),
    "a suffix": ({"suffix": "x"}, "suffix", "unsupported_parameter"),
    "log-probabilities as chat has them": ({"logprobs": True}, "logprobs", "invalid_value"),
    "a chat's key": ({"messages": []}, "messages", "unsupported_parameter"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_raw_request_is_400_and_named(what: str, server: Server) -> None:
    changes, param, code = REFUSED[what]
    response = server.request("POST", COMPLETIONS, content=json.dumps(BODY | changes))
    error = error_of(response)
    assert (response.status_code, str(error["param"]).split(".")[0], error["code"]) == (400, param, code)


def test_what_asks_for_nothing_is_taken(server: Server) -> None:
    defaults = {"suffix": None, "best_of": 1, "echo": False, "logprobs": None, "n": 1, "user": "x", "stream": None}
    assert server.request("POST", COMPLETIONS, json=BODY | defaults).status_code == 200
