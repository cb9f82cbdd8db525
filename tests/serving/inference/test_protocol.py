"""What asks for nothing is taken: OpenAI's parameters at their defaults, as null, and an answer sent back."""

from typing import Any

import pytest
from pydantic import ValidationError

from serving.inference.protocol import ChatCompletionRequest, CompletionRequest
from tests.serving.inference.support import CHAT, QUESTION, VALID, Server

DEFAULTS: dict[str, list[Any]] = {
    "audio": [],
    "frequency_penalty": [0, 0.0, -0.0],
    "function_call": ["none", "auto"],
    "functions": [[]],
    "logit_bias": [{}],
    "logprobs": [False],
    "max_completion_tokens": [],
    "max_tokens": [],
    "metadata": [{}],
    "modalities": [["text"]],
    "n": [1],
    "parallel_tool_calls": [True],
    "prediction": [],
    "presence_penalty": [0, 0.0],
    "prompt_cache_key": ["x"],
    "prompt_cache_retention": [],
    "reasoning_effort": [],
    "response_format": [{"type": "text"}],
    "safety_identifier": ["x"],
    "seed": [],
    "service_tier": ["auto", "default"],
    "stop": [[]],
    "store": [False],
    "stream": [False],
    "stream_options": [],
    "temperature": [1, 1.0],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
    "top_logprobs": [0],
    "top_p": [1, 1.0],
    "user": ["", "somebody"],
    "verbosity": ["medium"],
    "web_search_options": [],
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_parameter_at_its_default_or_null_is_taken(name: str) -> None:
    for value in [None, *DEFAULTS[name]]:
        ChatCompletionRequest.model_validate({"model": "m", "messages": QUESTION, name: value})


def test_all_of_them_at_once_give_the_answer_of_none_of_them(server: Server) -> None:
    plain = server.request("POST", CHAT, json=VALID).json()
    asked = {name: values[-1] if values else None for name, values in DEFAULTS.items()}
    full = server.request("POST", CHAT, json=asked | VALID)
    assert full.status_code == 200, full.text
    assert full.json()["choices"] == plain["choices"]


def test_the_caller_that_a_request_names_is_written_nowhere(server: Server) -> None:
    assert server.request("POST", CHAT, json=VALID | {"user": "somebody-whom-nobody-shall-know"}).status_code == 200
    written = server.output.read_text() + server.request("GET", "/metrics").text
    assert "somebody-whom-nobody-shall-know" not in written


def test_an_answer_of_the_openai_client_can_be_sent_back_as_it_came(server: Server) -> None:
    client = server.openai()
    first = client.chat.completions.create(model="champion", messages=QUESTION, max_tokens=4, temperature=0)
    messages: list[Any] = [*QUESTION, first.choices[0].message, {"role": "user", "content": "and again", "name": None}]
    again = client.chat.completions.create(model="champion", messages=messages, max_tokens=4, temperature=0)
    assert again.usage is not None and first.usage is not None
    assert again.usage.prompt_tokens > first.usage.prompt_tokens


def test_a_refusal_says_what_is_supported() -> None:
    with pytest.raises(ValidationError, match="is supported as false, its default, only; leave it out"):
        ChatCompletionRequest.model_validate({"model": "m", "messages": QUESTION, "store": True})
    with pytest.raises(ValidationError, match='is supported as "auto" or "default", its default, only'):
        ChatCompletionRequest.model_validate({"model": "m", "messages": QUESTION, "service_tier": "flex"})


MANY: dict[str, dict[str, Any]] = {
    "messages": {"messages": [1] * 100_000},
    "messages that are some": {"messages": QUESTION * 100_000},
    "stop strings": {"stop": [1] * 100_000},
    "biases": {"logit_bias": {f"x{number}": 1 for number in range(100_000)}},
    "keys": {f"x{number}": 1 for number in range(100_000)},
    "parts of a message": {"messages": [{"role": "user", "content": [1] * 100_000}]},
    "prompts": {"prompt": [[]] * 100_000},
    "ids": {"prompt": [1.5] * 100_000},
}


@pytest.mark.parametrize("what", MANY)
def test_a_body_full_of_faults_is_refused_with_a_few_of_them(what: str) -> None:
    kind = CompletionRequest if "prompt" in MANY[what] else ChatCompletionRequest
    with pytest.raises(ValidationError) as refused:
        kind.model_validate({"model": "m", "messages": QUESTION} | MANY[what])
    assert refused.value.error_count() < 8
