"""Answers, streams and models as real clients see them, from a real server process."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gpu_assets.errors import ServiceHttpError
from resources.artifacts import weights_sha256
from resources.services import ChatAnswer
from tests.serving.inference.support import (
    CHAT,
    QUESTION,
    READ_KEY,
    VALID,
    Models,
    Server,
    change_json,
    error_of,
    write_model,
)


def test_the_openai_client_chats(first_is_champion: Server, models: Models) -> None:
    completion = first_is_champion.openai().chat.completions.create(
        model="champion", messages=QUESTION, max_tokens=6, temperature=0
    )
    assert completion.model == "first"
    assert completion.system_fingerprint == weights_sha256(models.first)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 6
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 6


def test_a_stream_is_the_plain_answer_in_pieces_with_usage_at_its_end(server: Server) -> None:
    client = server.openai()
    asked: dict[str, Any] = {"model": "champion", "messages": QUESTION, "max_tokens": 24, "temperature": 1, "seed": 3}
    plain = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(pieces) == plain.choices[0].message.content
    assert len(pieces) > 3
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason
    assert (chunks[-1].choices, chunks[-1].usage) == ([], plain.usage)
    assert {chunk.system_fingerprint for chunk in chunks} == {plain.system_fingerprint}


def test_of_a_stream_with_usage_all_other_chunks_say_that_theirs_is_null(server: Server) -> None:
    asked = VALID | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, done = server.request("POST", CHAT, json=asked).text.strip().split("\n\n")
    assert [json.loads(chunk.removeprefix("data: "))["usage"] for chunk in chunks] == [None] * len(chunks)
    assert len(chunks) > 2 and json.loads(last.removeprefix("data: "))["usage"]["total_tokens"] > 0
    assert done == "data: [DONE]"


def test_a_stream_without_the_option_has_no_usage_and_ends_with_done(server: Server) -> None:
    response = server.request("POST", CHAT, json=VALID | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    assert "usage" not in response.text


def test_content_may_be_text_parts(server: Server) -> None:
    parts = [{"type": "text", "text": "add ①⓪ "}, {"type": "text", "text": "and ①"}]
    as_parts: Any = {"messages": [{"role": "user", "content": parts}], "max_tokens": 8, "temperature": 0}
    as_text = as_parts | {"messages": QUESTION}
    client = server.openai()
    answers = [client.chat.completions.create(model="champion", **asked) for asked in (as_text, as_parts)]
    assert answers[0].usage == answers[1].usage
    assert answers[0].choices[0].message == answers[1].choices[0].message


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_before_it(stream: bool, server: Server) -> None:
    client = server.openai()
    asked: dict[str, Any] = {"model": "champion", "messages": QUESTION, "max_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    assert whole is not None
    stop = whole[10:13]
    assert len(stop) == 3
    wanted = whole[: whole.index(stop)]
    if stream:
        choices = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stop=[stop], stream=True)]
        assert "".join(choice.delta.content or "" for choice in choices) == wanted
        assert choices[-1].finish_reason == "stop"
    else:
        answer = client.chat.completions.create(**asked, stop=[stop])
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (wanted, "stop")


def test_the_openai_client_raises_its_own_exceptions(server: Server) -> None:
    asked: dict[str, Any] = {"model": "champion", "messages": QUESTION}
    with pytest.raises(openai.AuthenticationError) as refused:
        server.openai("wrong").chat.completions.create(**asked)
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError):
        server.openai().chat.completions.create(**asked | {"model": "nobody"})
    with pytest.raises(openai.BadRequestError) as bad:
        server.openai().chat.completions.create(**asked, store=True)
    assert bad.value.param == "store"


def test_the_openai_client_lists_models(first_is_champion: Server) -> None:
    client = first_is_champion.openai()
    assert [model.id for model in client.models.list()] == ["champion", "first"]
    assert client.models.retrieve("champion").id == "champion"


def test_requests_in_flight_keep_the_version_they_began_with(first_is_champion: Server, models: Models) -> None:
    client = first_is_champion.client
    conversations = [[{"role": "user", "content": f"add {i} and {i}"}] for i in range(12)]
    folders = {weights_sha256(folder): folder for folder in (models.first, models.second)}
    alone: dict[tuple[str, int], str] = {}
    for sha256, folder in folders.items():
        client.load(folder)
        for index, answer in enumerate(client.chat_many(conversations, model=sha256, max_tokens=24, concurrency=12)):
            alone[sha256, index] = answer.text
    assert alone[weights_sha256(models.first), 0] != alone[weights_sha256(models.second), 0]

    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for folder in (models.second, models.first):
                client.reload(folder)

    def ask(turn: int) -> tuple[int, ChatAnswer]:
        index = turn % len(conversations)
        return index, client.chat(conversations[index], model="champion", max_tokens=24)

    with ThreadPoolExecutor(13) as threads:
        swapping = threads.submit(swap)
        try:
            answers = list(threads.map(ask, range(72)))
        finally:
            done.set()
        swapping.result()
    assert {answer.weights_sha256 for _, answer in answers} == set(folders)
    assert all(answer.text == alone[answer.weights_sha256, index] for index, answer in answers)


def test_a_reload_verifies_itself_over_the_api(first_is_champion: Server, models: Models) -> None:
    client = first_is_champion.client
    reloaded = client.reload(models.second)
    info = client.info()
    assert info.weights_sha256 == reloaded.weights_sha256 == weights_sha256(models.second)
    assert (info.name, info.checkpoint_step, info.path) == ("second", 20, str(models.second))
    pool = {model.name: model.is_champion for model in client.pool().models}
    assert pool == {"first": False, "second": True}
    assert client.chat(QUESTION, model="checkpoint-20", max_tokens=2).model == "second"


def test_a_candidate_answers_beside_the_champion(first_is_champion: Server, models: Models) -> None:
    client = first_is_champion.client
    candidate = client.load(models.plain)
    assert client.info().name == "first"
    assert client.chat(QUESTION, model=str(candidate.weights_sha256), max_tokens=2).model == "plain-folder"
    client.unload(str(candidate.id))
    with pytest.raises(ServiceHttpError, match="not held") as refused:
        client.chat(QUESTION, model="plain-folder", max_tokens=2)
    assert refused.value.status == 404


def tamper(folder: Path) -> None:
    change_json(folder / "manifest.json", weights_sha256="0" * 64)


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def alter_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\1\2\3")


def remove_folder(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize("model_path", ["", "\ud800", "a\0b", "x" * 5000, 7, None])
def test_a_model_path_that_is_no_path_is_400(model_path: object, server: Server) -> None:
    content = json.dumps({"model_path": model_path})
    headers = {"Content-Type": "application/json"}
    response = server.request("POST", "/models/reload", content=content, headers=headers)
    assert (response.status_code, error_of(response)["param"]) == (400, "model_path")


@pytest.mark.parametrize("path", ["/models/reload", "/models/pool/load"])
@pytest.mark.parametrize(
    ("spoil", "status"), [(tamper, 409), (alter_weights, 409), (remove_manifest, 400), (remove_folder, 400)]
)
def test_a_refused_folder_leaves_the_served_model(
    spoil: Callable[[Path], None], status: int, path: str, first_is_champion: Server, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "checkpoint-40-0123abcd", seed=8, step=40)
    spoil(folder)
    before = first_is_champion.client.pool()
    response = first_is_champion.request("POST", path, json={"model_path": str(folder)})
    assert response.status_code == status
    assert str(folder) in error_of(response)["message"]
    assert first_is_champion.client.pool() == before


def test_after_an_undeployment_nothing_is_served_until_the_next_reload(
    first_is_champion: Server, models: Models
) -> None:
    assert first_is_champion.client.undeploy() == weights_sha256(models.first)
    refused = [
        first_is_champion.request("GET", "/ready", key=None),
        first_is_champion.request("POST", CHAT, json=VALID),
    ]
    assert [(response.status_code, error_of(response)["code"]) for response in refused] == [(503, "no_model")] * 2
    assert "no model is deployed" in error_of(refused[0])["message"]
    assert first_is_champion.client.info().loaded is False
    assert first_is_champion.client.undeploy() is None
    first_is_champion.client.reload(models.first)
    assert first_is_champion.request("GET", "/ready", key=None).status_code == 200


def test_what_the_platform_loaded_is_told_from_what_a_person_did(first_is_champion: Server, models: Models) -> None:
    first_is_champion.client.load(models.second)
    assert first_is_champion.request("POST", "/models/pool/load", json={"model_path": str(models.third)}).is_success
    owners = {model.name: model.owner for model in first_is_champion.client.pool().models}
    assert (owners["second"], owners["third"]) == ("platform", None)


def test_the_champion_is_not_unloaded(first_is_champion: Server) -> None:
    with pytest.raises(ServiceHttpError) as refused:
        first_is_champion.client.unload("champion")
    assert refused.value.status == 409


def test_metrics_count_what_was_asked(server: Server) -> None:
    def total(name: str) -> float:
        lines = server.request("GET", "/metrics", key=READ_KEY).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"gpu_assets:{name}{{"))

    before = total("generation_tokens_total")
    server.client.chat(QUESTION, model="champion", max_tokens=5)
    assert total("generation_tokens_total") == before + 5
    assert total("num_requests_running") == total("num_requests_waiting") == 0
    assert total("e2e_request_latency_seconds_count") >= 1
    assert total("model_info") == server.client.pool().loaded_count


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_generation(stream: bool, server: Server) -> None:
    def running() -> float:
        lines = server.request("GET", "/metrics").text.splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("gpu_assets:num_requests_running{")
        )

    body = VALID | {"max_tokens": 1900, "stream": stream}
    headers = {"Authorization": f"Bearer {READ_KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=0.4) as client:
        if stream:
            with client.stream("POST", CHAT, json=body) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(CHAT, json=body)
    for _ in range(100):
        if not running():
            break
        threading.Event().wait(0.02)
    assert not running()
    assert all(model.in_flight == 0 for model in server.client.pool().models)
