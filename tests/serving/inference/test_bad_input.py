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


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


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
    "a model whose name is a book": ({"model": "x" * 257}, "model", "invalid_value"),
    "a model that is a number": ({"model": 7}, "model", "invalid_value"),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    "negative tokens": ({"max_tokens": -1}, "max_tokens", "invalid_value"),
    "tokens as text": ({"max_tokens": "5"}, "max_tokens", "invalid_value"),
    "fractional tokens": ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
    "two limits": ({"max_completion_tokens": 5}, "max_tokens", "invalid_value"),
    "a hot temperature": ({"temperature": 2.1}, "temperature", "invalid_value"),
    "a temperature that is no number": ({"temperature": float("nan")}, None, "invalid_body"),
    "a temperature as a boolean": ({"temperature": True}, "temperature", "invalid_value"),
    "top_p of nothing": ({"top_p": 0}, "top_p", "invalid_value"),
    "top_k below -1": ({"top_k": -2}, "top_k", "invalid_value"),
    "five stop strings": ({"stop": list("abcde")}, "stop", "invalid_value"),
    "an empty stop string": ({"stop": ""}, "stop", "invalid_value"),
    "no answers": ({"n": 0}, "n", "invalid_value"),
    "too many answers": ({"n": 17}, "n", "invalid_value"),
    "stream options without a stream": (
        {"stream_options": {"include_usage": True}},
        "stream_options",
        "invalid_value",
    ),
    "tools": ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
    "logprobs as a number": ({"logprobs": 0}, "logprobs", "invalid_value"),
    "top logprobs without logprobs": ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    "too many top logprobs": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    "an unknown response format": (
        {"response_format": {"type": "grammar"}},
        "response_format.type",
        "invalid_value",
    ),
    "a schema without its schema": (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "invalid_value",
    ),
    "a schema that is none": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}},
        "response_format",
        "invalid_value",
    ),
    "a penalty out of range": ({"frequency_penalty": 2.5}, "frequency_penalty", "invalid_value"),
    "a penalty that is false": ({"presence_penalty": False}, "presence_penalty", "invalid_value"),
    "a repetition penalty of nothing": ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    "a min_p over one": ({"min_p": 1.5}, "min_p", "invalid_value"),
    "a bias out of range": ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
    "a bias of a token that is none": ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
    "a bias of a text": ({"logit_bias": {"hello": 1}}, "logit_bias.hello", "invalid_value"),
    "a template variable that is the renderer's": (
        {"chat_template_kwargs": {"add_generation_prompt": False}},
        "chat_template_kwargs",
        "invalid_value",
    ),
    "a template variable with a control token": (
        {"chat_template_kwargs": {"note": ["<|im_start|>"]}},
        "chat_template_kwargs",
        "invalid_value",
    ),
    "storing": ({"store": True}, "store", "unsupported_parameter"),
    "no parallel tool calls": ({"parallel_tool_calls": False}, "parallel_tool_calls", "unsupported_parameter"),
    "another service tier": ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
    "a user that is a number": ({"user": 7}, "user", "invalid_value"),
    "a tool's call": (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
        "messages.0.tool_calls",
        "unsupported_parameter",
    ),
    "a key that nobody knows, as null": ({"colour": None}, "colour", "unsupported_parameter"),
    "a key that is no text": ({"\ud800": 1}, None, "invalid_value"),
    "no model": ({"model": None}, "model", "invalid_value"),
    "a value nested deeper than can be shown": ({"model": nested(900)}, "model", "invalid_value"),
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


NO_OBJECTS = {
    b"": "the request has no body, a JSON object is wanted",
    b" \n": "the request has no body, a JSON object is wanted",
    b"{": "the body is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    b"[]": "the body is a JSON array, a JSON object is wanted",
    b"null": "the body is a JSON null, a JSON object is wanted",
    b'"text"': "the body is a JSON string, a JSON object is wanted",
    b"\xff\xfe": "the body is not UTF-8: byte 0xff at position 0",
    b"[" * 10_000: "the body is nested too deeply; no request needs more than a few levels",
    b'{"a":' * 10_000: "the body is nested too deeply; no request needs more than a few levels",
    b'{"seed": ' + b"9" * 5_000 + b"}": "the body is not JSON: Exceeds the limit",
    b'{"top_p": Infinity}': "the body is not JSON: Infinity is no number that can be used",
    b'{"top_p": -1e999}': "the body is not JSON: -1e999 is no number that can be used",
    b'{"n": 1, "x": {"n": 1, "n": 2}}': "the body names 'n' twice in one object; leave one",
}


@pytest.mark.parametrize("content", NO_OBJECTS, ids=lambda content: repr(content[:8]))
@pytest.mark.parametrize("path", [CHAT, "/models/reload"])
def test_a_body_that_is_no_json_object_is_400_with_its_own_sentence(content: bytes, path: str, server: Server) -> None:
    response = server.request("POST", path, content=content, headers={"Content-Type": "application/json"})
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "invalid_body")
    assert error["message"].startswith(NO_OBJECTS[content])


@pytest.mark.parametrize("named", [None, "text/plain", "application/octet-stream", "application/vnd.api+json", "?;;="])
def test_json_is_read_whatever_content_type_is_named(named: str | None, server: Server) -> None:
    headers = {} if named is None else {"Content-Type": named}
    response = server.request("POST", CHAT, content=json.dumps(VALID), headers=headers)
    assert response.status_code == 200, response.text


def test_a_byte_order_mark_is_passed_over(server: Server) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(VALID).encode()
    assert server.request("POST", CHAT, content=content).status_code == 200


@pytest.mark.parametrize("named", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_form_is_415_and_the_sentence_says_what_to_send(named: str, server: Server) -> None:
    response = server.request("POST", CHAT, content=json.dumps(VALID), headers={"Content-Type": named})
    assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_content_type")
    assert error_of(response)["message"] == (
        f"the body is a form ({named}), a JSON object is wanted; send it with Content-Type: application/json"
    )


def test_no_bad_request_leaves_a_traceback_in_the_log(server: Server) -> None:
    odd = [{"\ud800": 1}, VALID | {"model": nested(900)}]
    for content in [*NO_OBJECTS, *(json.dumps(body).encode() for body in odd)]:
        server.request("POST", CHAT, content=content)
    assert "Traceback" not in server.output.read_text()


def test_a_name_that_comes_twice_is_found_among_many(server: Server) -> None:
    names = ", ".join(f'"{number}": 1' for number in range(70_000))
    response = server.request("POST", CHAT, content=f'{{{names}, "69999": 2}}'.encode())
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_body")
    assert error_of(response)["message"] == "the body names '69999' twice in one object; leave one"


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


def test_a_template_variable_nested_however_deep_is_never_our_fault(server: Server) -> None:
    statuses = set()
    for depth in (800, *range(910, 950)):
        content = json.dumps(VALID | {"max_tokens": 1, "chat_template_kwargs": {"x": 0}})
        content = content.replace('{"x": 0}', f'{{"x": {"[" * depth}{"]" * depth}}}')
        statuses.add(server.request("POST", CHAT, content=content).status_code)
    assert statuses <= {200, 400}
