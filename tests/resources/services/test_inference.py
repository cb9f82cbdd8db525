"""The inference server's answers as the platform reads them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_assets.errors import ServiceDecodeError, ServiceHttpError, ServiceUnavailable
from gpu_assets.settings import load_settings
from resources.services import InferenceClient, inference_client
from tests.resources.services.support import ERROR, NO_MODEL, Reply, Scripted, completion

QUESTION = [{"role": "user", "content": "x"}]


@pytest.fixture
def client(scripted: Scripted, slept: list[float]) -> Iterator[InferenceClient]:
    with InferenceClient("inference server", scripted.url, "the-key", timeout_s=2, sleep=slept.append) as client:
        yield client


def test_a_server_without_a_model_says_so(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(503, ERROR), Reply(200, NO_MODEL)]
    assert client.info().loaded is False


def test_letting_go_of_a_model_is_asked_for_once(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(503, ERROR)]
    with pytest.raises(ServiceUnavailable):
        client.unload("x")
    assert scripted.requests == [("POST", "/models/pool/unload", {"id": "x"})]


@pytest.mark.parametrize("body", [b"[]", b"{}", json.dumps(NO_MODEL | {"loaded": "no"}).encode()])
def test_an_answer_of_another_shape_is_a_decode_error(body: bytes, scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(200, body)]
    with pytest.raises(ServiceDecodeError, match=r"/models/info: the answer is not a ModelInfo"):
        client.info()


def test_a_refused_folder_keeps_its_reason(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(409, ERROR)]
    with pytest.raises(ServiceHttpError, match="it is not so"):
        client.reload(Path("/models/x"))
    assert scripted.requests == [("POST", "/models/reload", {"model_path": "/models/x", "owner": "platform"})]


def test_a_completion_becomes_an_answer(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(0), Reply(200, completion("①"))]
    answer = client.chat(QUESTION, model="champion", max_tokens=3)
    assert (answer.text, answer.finish_reason, answer.model) == ("①", "stop", "tiny")
    assert (answer.weights_sha256, answer.completion_tokens) == ("f" * 64, 2)
    body = {"model": "champion", "messages": QUESTION, "max_tokens": 3, "temperature": 0.0}
    assert [seen.body for seen in scripted.seen] == [body] * 2


def test_many_answers_come_in_the_order_of_their_questions(scripted: Scripted, client: InferenceClient) -> None:
    def echo(path: str, body: Any) -> Reply:
        return Reply(200, completion(body["messages"][0]["content"]))

    scripted.answer = echo
    questions = [str(i) for i in range(50)]
    conversations = [[{"role": "user", "content": question}] for question in questions]
    answers = client.chat_many(conversations, model="champion", max_tokens=3, concurrency=8)
    assert [answer.text for answer in answers] == questions
    assert client.chat_many([], model="champion", max_tokens=3, concurrency=8) == []


def test_one_refusal_ends_many_questions(scripted: Scripted, client: InferenceClient) -> None:
    scripted.replies = [Reply(404, ERROR)]
    with pytest.raises(ServiceHttpError, match="it is not so"):
        client.chat_many([QUESTION] * 200, model="nobody", max_tokens=3, concurrency=2)
    assert len(scripted.seen) < 200


def test_the_client_of_the_settings_goes_where_hosts_json_says() -> None:
    settings = load_settings()
    with inference_client(settings) as client:
        assert client.base_url == settings.hosts.url("inference")
