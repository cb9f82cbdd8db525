"""Every bad request has its status, its code, and OpenAI's error shape; the server answers on."""

import json
from typing import Any

import pytest

from tests.serving.inference.support import (
    CHAT,
    VALID,
    Server,
    error_of,
)

BAD_BODIES: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "no messages": ({"messages": []}, "messages", "invalid_value"),
    "a role that is not ours": ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "invalid_value"),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0.content", "invalid_value"),
    "content that is a number": ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content", "invalid_value"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0.content",
        "invalid_value",
    ),
    "a control token": (
        {"messages": [{"role": "user", "content": "x<|im_end|>"}]},
        "messages.0.content",
        "invalid_value",
    ),
    "a lone surrogate": ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content", "invalid_value"),
    "a model that is a number": ({"model": 7}, "model", "invalid_value"),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    "negative tokens": ({"max_tokens": -1}, "max_tokens", "invalid_value"),
    "tokens as text": ({"max_tokens": "5"}, "max_tokens", "invalid_value"),
    "fractional tokens": ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
    "two limits": ({"max_completion_tokens": 5}, "max_tokens", "invalid_value"),
    "a hot temperature": ({"temperature": 2.1}, "temperature", "invalid_value"),
    "a temperature that is no number": ({"temperature": float("nan")}, "temperature", "invalid_value"),
    "a temperature as a boolean": ({"temperature": True}, "temperature", "invalid_value"),
    "top_p of nothing": ({"top_p": 0}, "top_p", "invalid_value"),
    "top_k below -1": ({"top_k": -2}, "top_k", "invalid_value"),
    "five stop strings": ({"stop": list("abcde")}, "stop", "invalid_value"),
    "an empty stop string": ({"stop": ""}, "stop", "invalid_value"),
    "two answers": ({"n": 2}, "n", "invalid_value"),
    "stream options without a stream": (
        {"stream_options": {"include_usage": True}},
        "stream_options",
        "invalid_value",
    ),
    "tools": ({"tools": []}, "tools", "unsupported_parameter"),
    "logprobs": ({"logprobs": True}, "logprobs", "unsupported_parameter"),
    "a response format": ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    "a penalty": ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
    "a key that nobody knows": ({"colour": "red"}, "colour", "unsupported_parameter"),
    "more than the context": ({"max_tokens": 2048}, "messages", "context_length_exceeded"),
    "a prompt over the context": (
        {"messages": [{"role": "user", "content": "long " * 20_000}], "max_tokens": None},
        "messages",
        "context_length_exceeded",
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_bad_parameter_is_400_and_named(what: str, stream: bool, server: Server) -> None:
    changes, param, code = BAD_BODIES[what]
    body = VALID | {"stream": stream} | changes
    if what == "stream options without a stream":
        body["stream"] = False
    response = server.request("POST", CHAT, content=json.dumps(body), headers={"Content-Type": "application/json"})
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("path", [CHAT, "/models/reload"])
def test_a_body_that_is_no_json_object_is_400(content: bytes, path: str, server: Server) -> None:
    response = server.request("POST", path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error_of(response)


def test_a_body_over_the_cap_is_413_with_and_without_its_length(server: Server) -> None:
    large = json.dumps(VALID | {"messages": [{"role": "user", "content": "x" * 2**20}]}).encode()
    pieces = (large[at : at + 65536] for at in range(0, len(large), 65536))
    for content in (large, pieces):
        response = server.request("POST", CHAT, content=content, headers={"Content-Type": "application/json"})
        assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/health/", 404),
        ("GET", "/v1/models/nobody", 404),
        ("POST", "/health", 405),
        ("GET", "/models/reload", 405),
    ],
)
def test_unknown_paths_and_wrong_methods_have_the_error_shape(
    method: str, path: str, status: int, server: Server
) -> None:
    response = server.request(method, path)
    assert response.status_code == status
    error_of(response)


def test_an_unknown_model_is_404(server: Server) -> None:
    response = server.request("POST", CHAT, json=VALID | {"model": "checkpoint-999"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")


def test_the_documented_api_never_answers_422(server: Server) -> None:
    assert '"422"' not in server.request("GET", "/openapi.json").text


def test_every_answer_carries_a_request_id(server: Server) -> None:
    assert server.request("GET", "/nowhere").headers["x-request-id"].startswith("req-")
    assert server.request("GET", "/health", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
