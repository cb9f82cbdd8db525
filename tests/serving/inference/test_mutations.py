"""Valid bodies changed at random, as values and as bytes: each is answered or refused by name, none is our fault."""

import json
import random
from collections import Counter
from copy import deepcopy
from typing import Any

import httpx
import pytest

from tests.serving.inference.support import CHAT, COMPLETIONS, VALID, ScriptedEngine, Serve, error_of

BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, VALID),
    (
        CHAT,
        VALID
        | {
            "messages": [
                {"role": "system", "content": "short"},
                {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
                {"role": "assistant", "content": "", "tool_calls": [], "refusal": None},
            ],
            "n": 2,
            "seed": -1,
            "top_p": 0.5,
            "top_k": 3,
            "min_p": 0.1,
            "stop": ["a", "bc"],
            "logprobs": True,
            "top_logprobs": 3,
            "logit_bias": {"5": 1, "70": -100},
            "presence_penalty": 1,
            "repetition_penalty": 1.1,
            "chat_template_kwargs": {"enable_thinking": True, "x": [1, {"y": None}]},
            "tools": [],
            "store": False,
        },
    ),
    (CHAT, VALID | {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}),
    (
        CHAT,
        VALID
        | {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "x",
                    "strict": True,
                    "schema": {
                        "type": "object",
                        "properties": {"a": {"type": "integer", "minimum": 1}, "b": {"enum": ["x", 1, None]}},
                        "required": ["a"],
                        "additionalProperties": False,
                    },
                },
            }
        },
    ),
    (COMPLETIONS, {"model": "first", "prompt": ["one", "two"], "max_tokens": 3, "logprobs": 2, "n": 2}),
    (COMPLETIONS, {"model": "champion", "prompt": [1, 2, 3], "echo": True, "stream": True, "stop": "x"}),
]
KEYS = [
    "messages",
    "model",
    "stream",
    "n",
    "content",
    "role",
    "schema",
    "type",
    "$ref",
    "",
    "\x00",
    "\ud800",
    "é",
    "x" * 300,
]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, 5e-324, "", " ", "\x00",
    "\ud800", "\udfff\ud800", "x" * 5000, "<|im_end|>", "\u202e", "champion", "first", [], [[]], [[], 1], {}, {"": {}},
    "text", "json_object", "user", "object", [0], ["a"] * 5, {"$ref": "#"}, {"type": "string", "pattern": "(" * 9},
]  # fmt: skip


def inside(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a value with each of its keys."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [place for key, part in items for place in [(value, key), *inside(part)]]


def changed(body: dict[str, Any], chance: random.Random) -> Any:
    """A copy with one to three parts replaced, moved, doubled, renamed or taken away."""
    body = deepcopy(body)
    for _ in range(chance.randint(1, 3)):
        places = inside(body)
        if not places:
            break
        parent, key = chance.choice(places)
        match chance.randrange(6):
            case 0:
                del parent[key]
            case 1:
                other, its_key = chance.choice(places)
                parent[key] = deepcopy(other[its_key])
            case 2 if isinstance(parent, dict):
                parent[chance.choice(KEYS)] = parent.pop(key)
            case 3 if isinstance(parent, list):
                parent.extend(deepcopy(parent) * chance.randint(1, 40))
            case 4:
                parent[key] = [deepcopy(parent[key]) for _ in range(chance.randint(1, 3))]
            case _:
                parent[key] = deepcopy(chance.choice(VALUES))
    return body


def broken(content: bytes, chance: random.Random) -> bytes:
    """The same with some bytes changed, cut out, or doubled."""
    spoilt = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(spoilt))
        match chance.randrange(4):
            case 0:
                spoilt[at] = chance.randrange(256)
            case 1:
                del spoilt[at : at + chance.randint(1, 9)]
            case 2:
                spoilt[at:at] = spoilt[at : at + chance.randint(1, 40)]
            case _:
                spoilt[at:at] = chance.choice(
                    [b"\xff", b"\\u0000", b"\\ud800", b"NaN", b"1e999", b"{", b"[", b'"', b"9" * 5000]
                )
        if not spoilt:
            break
    return bytes(spoilt)


async def post(http: httpx.AsyncClient, path: str, content: bytes) -> int:
    """The status, of an answer that is what its status says."""
    response = await http.post(path, content=content)
    if response.status_code == 200:
        if response.headers["content-type"].startswith("text/event-stream"):
            assert response.text.endswith("data: [DONE]\n\n")
        else:
            assert response.json()["choices"]
    else:
        assert error_of(response)["type"] == "invalid_request_error", (response.text, content)
        assert response.status_code in (400, 404, 413), (response.text, content)
    return response.status_code


def mutate(serve: Serve, seed: int, count: int) -> Counter[int]:
    chance, statuses = random.Random(seed), Counter[int]()

    async def check(http: httpx.AsyncClient) -> None:
        for path, body in BODIES:
            assert await post(http, path, json.dumps(body).encode()) == 200
        for number in range(count):
            path, body = chance.choice(BODIES)
            content = json.dumps(changed(body, chance)).encode()
            statuses[await post(http, path, broken(content, chance) if number % 4 == 0 else content)] += 1

    serve(check)
    return statuses


def test_changed_bodies_are_answered_or_refused(serve: Serve, engine: ScriptedEngine) -> None:
    statuses = mutate(serve, seed=1, count=2000)
    assert statuses[200] > 100 and statuses[400] > 100
    assert engine.running == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 22))
def test_many_more_changed_bodies_are_answered_or_refused(seed: int, serve: Serve) -> None:
    assert mutate(serve, seed, count=2000).total() == 2000
