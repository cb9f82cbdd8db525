"""What a request becomes for the engine, and what of several answers comes back."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest

from gpu_assets.base_model.tiny import build_tokenizer
from serving.inference import requests
from serving.inference.engine import JsonGrammar, Sampling
from serving.inference.requests import HEAVY_CHARACTERS, INLINE_CHARACTERS, aside
from tests.serving.inference.support import CHAT, COMPLETIONS, ScriptedEngine, Serve, events_of, run

TOKENIZER = build_tokenizer()
IDS = TOKENIZER.encode("hello 漢, is it").ids
TEXT = "hello 漢, is it"
(END,) = TOKENIZER.encode("<|im_end|>").ids
BODY: dict[str, Any] = {"model": "champion", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 40}
HEAVY = "a " * (HEAVY_CHARACTERS // 2 + 1)
RAW: dict[str, Any] = {"model": "champion", "prompt": "one two", "max_tokens": 40}


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(token_ids=[*IDS, END], stepwise=True)


def test_every_sampling_parameter_reaches_the_engine(serve: Serve, engine: ScriptedEngine) -> None:
    given: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 3,
        "presence_penalty": 1,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.2,
    }

    async def check(http: httpx.AsyncClient) -> None:
        for path, body in ((CHAT, BODY), (COMPLETIONS, RAW)):
            asked = body | given | {"logit_bias": {"5": -100, "7": 1.5}, "response_format": {"type": "json_object"}}
            assert (await http.post(path, json=asked)).status_code == 200
            assert engine.asked[-1].sampling == Sampling(**given, logit_bias={5: -100.0, 7: 1.5})
            assert engine.asked[-1].grammar == JsonGrammar()
            assert (await http.post(path, json=body)).status_code == 200
            assert engine.asked[-1].sampling == Sampling(temperature=1.0)
            assert engine.asked[-1].grammar is None

    serve(check)


def test_a_schema_reaches_the_engine_as_it_is(serve: Serve, engine: ScriptedEngine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}

    async def check(http: httpx.AsyncClient) -> None:
        assert (await http.post(CHAT, json=BODY | {"response_format": wanted})).status_code == 200
        assert engine.asked[-1].grammar == JsonGrammar(schema)

    serve(check)


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_held_to_is_400_before_anything_is_generated(
    stream: bool, serve: Serve, engine: ScriptedEngine
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}

    async def check(http: httpx.AsyncClient) -> None:
        engine.asked.clear()
        response = await http.post(CHAT, json=BODY | {"response_format": wanted, "stream": stream})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format")
        assert not engine.asked

    serve(check)


def test_each_answer_has_a_seed_of_its_own_within_64_bits(serve: Serve, engine: ScriptedEngine) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        for seed, wanted in ((5, [5, 6, 7]), (2**63 - 1, [2**63 - 1, -(2**63), -(2**63) + 1]), (None, [None] * 3)):
            engine.asked.clear()
            await http.post(CHAT, json=BODY | {"n": 3, "seed": seed})
            assert Counter(generation.sampling.seed for generation in engine.asked) == Counter(wanted)

    serve(check)


def test_a_prompt_counts_once_however_many_its_answers(serve: Serve) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        one, three = [(await http.post(CHAT, json=BODY | {"n": n})).json() for n in (1, 3)]
        assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
        assert three["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"] == 3 * (len(IDS) + 1)
        assert three["usage"]["total_tokens"] == sum(
            three["usage"][f"{what}_tokens"] for what in ("prompt", "completion")
        )
        assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
        assert {choice["message"]["content"] for choice in three["choices"]} == {TEXT}
        metrics = (await http.get("/metrics")).text
        assert f'gpu_assets:prompt_tokens_total{{model_name="first"}} {2.0 * one["usage"]["prompt_tokens"]}' in metrics
        assert f'gpu_assets:generation_tokens_total{{model_name="first"}} {4.0 * (len(IDS) + 1)}' in metrics

    serve(check)


def test_several_answers_are_streamed_side_by_side(serve: Serve) -> None:
    asked = BODY | {"n": 3, "stream": True, "logprobs": True, "stream_options": {"include_usage": True}}

    async def check(http: httpx.AsyncClient) -> None:
        *events, last = events_of(await http.post(CHAT, json=asked))
        assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 3 * (len(IDS) + 1))
        for index in range(3):
            choices = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
            assert choices[0]["delta"] == {"role": "assistant", "content": ""}
            assert "".join(choice["delta"].get("content", "") for choice in choices) == TEXT
            assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
            entries = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
            assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == TEXT
        assert [event["choices"][0]["index"] for event in events] != sorted(
            event["choices"][0]["index"] for event in events
        )
        assert all(event["usage"] is None for event in events)

    serve(check)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_one_answer_that_fails_ends_the_stream_of_all_with_an_error(
    path: str, serve: Serve, engine: ScriptedEngine
) -> None:
    body = BODY if path == CHAT else RAW

    async def check(http: httpx.AsyncClient) -> None:
        engine.dies_midway = True
        streamed = await http.post(path, json=body | {"n": 3, "stream": True})
        assert '"code":"engine_stopped"' in streamed.text.splitlines()[-2]
        assert "[DONE]" not in streamed.text
        whole = await http.post(path, json=body | {"n": 3})
        assert (whole.status_code, whole.json()["error"]["code"]) == (503, "engine_stopped")
        assert engine.running == 0

    serve(check)


def test_log_probabilities_have_openais_shape(serve: Serve) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        chat = (await http.post(CHAT, json=BODY | {"logprobs": True, "top_logprobs": 2})).json()["choices"][0]
        assert set(chat["logprobs"]) == {"content", "refusal"}
        entries = chat["logprobs"]["content"]
        assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == chat["message"]["content"]
        assert all(set(entry) == {"token", "logprob", "bytes", "top_logprobs"} for entry in entries)
        assert all([top["logprob"] for top in entry["top_logprobs"]] == [-0.5, -1.5] for entry in entries)
        raw = (await http.post(COMPLETIONS, json=RAW | {"logprobs": 2})).json()["choices"][0]
        lists = raw["logprobs"]
        assert set(lists) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
        assert {len(its) for its in lists.values()} == {len(IDS)}
        assert lists["tokens"] == [entry["token"] for entry in entries]
        assert lists["text_offset"][:2] == [0, len(lists["tokens"][0])]
        assert all(token in top for token, top in zip(lists["tokens"], lists["top_logprobs"], strict=True))
        plain = (await http.post(CHAT, json=BODY)).json()["choices"][0]
        assert plain["logprobs"] is None

    serve(check)


def test_only_the_chosen_token_is_named_where_no_others_are_asked_for(serve: Serve) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        chat = (await http.post(CHAT, json=BODY | {"logprobs": True})).json()["choices"][0]
        assert all(entry["top_logprobs"] == [] for entry in chat["logprobs"]["content"])
        raw = (await http.post(COMPLETIONS, json=RAW | {"logprobs": 0})).json()["choices"][0]
        assert all(len(top) == 1 for top in raw["logprobs"]["top_logprobs"])

    serve(check)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_token_ids_are_given_under_vllms_names(path: str, serve: Serve, engine: ScriptedEngine) -> None:
    body = (BODY if path == CHAT else RAW) | {"return_token_ids": True}

    async def check(http: httpx.AsyncClient) -> None:
        whole = (await http.post(path, json=body)).json()
        assert whole["choices"][0]["token_ids"] == engine.token_ids
        holder = whole if path == CHAT else whole["choices"][0]
        assert holder["prompt_token_ids"] == engine.asked[-1].prompt_ids
        events = events_of(await http.post(path, json=body | {"stream": True}))
        ids = [token for event in events for token in event["choices"][0].get("token_ids", [])]
        assert ids == engine.token_ids
        holders = events if path == CHAT else [event["choices"][0] for event in events]
        assert holders[0]["prompt_token_ids"] == engine.asked[-1].prompt_ids
        assert not any("prompt_token_ids" in holder for holder in holders[1:])
        without = await http.post(path, json=body | {"return_token_ids": False})
        assert "token_ids" not in without.text

    serve(check)


def test_tokens_as_token_ids_name_every_token_with_its_id_and_chunk(serve: Serve, engine: ScriptedEngine) -> None:
    body = RAW | {"return_token_ids": True, "return_tokens_as_token_ids": True, "logprobs": 1, "stream": True}

    async def check(http: httpx.AsyncClient) -> None:
        choices = [event["choices"][0] for event in events_of(await http.post(COMPLETIONS, json=body))]
        assert all(
            choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]] for choice in choices
        )
        assert [token for choice in choices for token in choice["token_ids"]] == engine.token_ids

    serve(check)


def test_a_developers_message_is_a_systems(serve: Serve, engine: ScriptedEngine) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        for role in ("developer", "system"):
            await http.post(CHAT, json=BODY | {"messages": [{"role": role, "content": "x"}, *BODY["messages"]]})
        assert engine.asked[-1].prompt_ids == engine.asked[-2].prompt_ids

    serve(check)


def test_a_template_variable_of_the_request_is_the_templates(serve: Serve, engine: ScriptedEngine) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        for variables in (
            None,
            {"enable_thinking": True},
            {"nobody_knows": [1, {"a": None}], "self": 1, "template": 2},
        ):
            response = await http.post(CHAT, json=BODY | {"chat_template_kwargs": variables})
            assert response.status_code == 200, response.text
        plain, thinking, unknown = [TOKENIZER.decode(asked.prompt_ids) for asked in engine.asked[-3:]]
        assert plain == unknown
        assert "<think>" in plain and "<think>" not in thinking

    serve(check)


def test_the_times_between_tokens_are_counted_where_they_come_one_by_one(serve: Serve) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        await http.post(CHAT, json=BODY | {"stream": True})
        counted = f'gpu_assets:inter_token_latency_seconds_count{{model_name="first"}} {float(len(IDS))}'
        assert counted in (await http.get("/metrics")).text

    serve(check)


@pytest.mark.parametrize(
    ("characters", "at_once", "in_loop"),
    [(INLINE_CHARACTERS, 1, True), (INLINE_CHARACTERS + 1, 2, False), (HEAVY_CHARACTERS + 1, 1, False)],
)
def test_long_texts_are_worked_on_beside_the_event_loop_and_heavy_ones_one_at_a_time(
    characters: int, at_once: int, in_loop: bool
) -> None:
    both, running, most = threading.Barrier(2), 0, 0
    lock, threads = threading.Lock(), set()

    def work(text: str) -> str:
        nonlocal running, most
        with lock:
            running, most = running + 1, max(most, running + 1)
            threads.add(threading.get_ident())
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=10 if at_once == 2 else 0.5)
        with lock:
            running -= 1
        return text

    async def check() -> None:
        assert await asyncio.gather(*(aside(characters, work, text) for text in "ab")) == ["a", "b"]

    run(check())
    assert most == at_once
    assert (threads == {threading.get_ident()}) is in_loop


@pytest.mark.parametrize(
    ("path", "text"), [(CHAT, {"messages": [{"role": "user", "content": HEAVY}]}), (COMPLETIONS, {"prompt": HEAVY})]
)
def test_a_heavy_prompt_is_tokenized_in_the_thread_for_those(
    path: str, text: dict[str, Any], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        answer = await http.post(path, json={"model": "champion", **text})
        assert answer.json()["error"]["code"] == "context_length_exceeded"

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="of-this-test") as executor:
        monkeypatch.setattr(requests, "_heavy", executor)
        serve(check)
        assert "of-this-test_0" in {thread.name for thread in threading.enumerate()}
