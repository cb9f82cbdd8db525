"""The openai client, unmodified, against the real server: what its users rely on."""

import asyncio
import json
import math
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict

from gpu_assets.base_model.tiny import build_tokenizer
from resources.artifacts import weights_sha256
from tests.serving.inference.support import (
    ADMIN_KEY,
    QUESTION,
    READ_KEY,
    Models,
    Server,
    ready_server,
    run,
)

TOKENIZER = build_tokenizer()
GREEDY: dict[str, Any] = {"model": "champion", "messages": QUESTION, "max_tokens": 12, "temperature": 0}
SAMPLED: dict[str, Any] = GREEDY | {"temperature": 1}


class Verdict(BaseModel):
    """What the model is held to."""

    model_config = ConfigDict(extra="forbid")

    colour: Literal["red", "green"]
    sure: bool


def test_n_gives_so_many_answers_each_the_one_of_its_own_seed(server: Server) -> None:
    client = server.openai()
    several = client.chat.completions.create(**SAMPLED, n=3, seed=7)
    alone = [client.chat.completions.create(**SAMPLED, seed=7 + index).choices[0] for index in range(3)]
    assert [choice.message.content for choice in several.choices] == [choice.message.content for choice in alone]
    assert len({choice.message.content for choice in alone}) == 3
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.usage is not None
    assert several.usage.completion_tokens == 36


def test_n_streams_are_the_n_answers(server: Server) -> None:
    client = server.openai()
    asked: dict[str, Any] = SAMPLED | {"n": 3, "seed": 7}
    whole = client.chat.completions.create(**asked)
    texts = {0: "", 1: "", 2: ""}
    reasons: dict[int, str] = {}
    for chunk in client.chat.completions.create(**asked, stream=True):
        assert chunk.usage is None
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason is not None:
                reasons[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}


def test_the_same_seed_gives_the_same_answer_and_another_another(server: Server) -> None:
    client = server.openai()
    first, again, other = [
        client.chat.completions.create(**SAMPLED, seed=seed).choices[0].message.content for seed in (1, 1, 2)
    ]
    assert first == again != other


def test_log_probabilities_are_of_each_token_with_the_likeliest_beside_it(server: Server) -> None:
    client = server.openai()
    choice = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3).choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    entries = choice.logprobs.content
    assert len(entries) == 12
    for entry in entries:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
        assert entry.logprob == tops[0] <= 0
        assert sum(map(math.exp, tops)) <= 1
    said = b"".join(bytes(entry.bytes or []) for entry in entries)
    assert said.decode(errors="replace") == choice.message.content


def test_a_streams_log_probabilities_are_the_whole_answers(server: Server) -> None:
    client = server.openai()
    whole = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=1).choices[0].logprobs
    chunks = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=1, stream=True)
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    streamed = [entry for part in parts if part is not None for entry in part.content or []]
    assert whole is not None and whole.content is not None
    assert [entry.token for entry in streamed] == [entry.token for entry in whole.content]
    assert [entry.logprob for entry in streamed] == pytest.approx([entry.logprob for entry in whole.content], abs=1e-4)


def test_a_bias_forces_a_token_and_bans_another(server: Server) -> None:
    client = server.openai()
    forced = client.chat.completions.create(**GREEDY, logit_bias={"70": 100}).choices[0].message.content
    assert forced == TOKENIZER.decode([70] * 12)
    biases = {"70": 100, "71": 99}
    banned = client.chat.completions.create(**GREEDY, logit_bias=biases | {"70": -100}).choices[0].message.content
    assert banned == TOKENIZER.decode([71] * 12)


def test_a_penalty_changes_a_forced_repetition(server: Server) -> None:
    client = server.openai()
    asked = GREEDY | {"logit_bias": {"70": 2.0, "71": 1.9}}
    penalised = client.chat.completions.create(**asked, frequency_penalty=2, presence_penalty=2)
    assert penalised.choices[0].message.content != client.chat.completions.create(**asked).choices[0].message.content


def test_an_answer_is_parsed_into_the_type_that_was_asked_for(server: Server) -> None:
    asked: dict[str, Any] = SAMPLED | {"max_tokens": 200, "seed": 3}
    parsed = server.openai().chat.completions.parse(**asked, response_format=Verdict).choices[0].message.parsed
    assert isinstance(parsed, Verdict)


def test_a_json_answer_is_an_object(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = server.openai().chat.completions.create(**GREEDY | {"max_tokens": 60}, response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "")["a"] in (1, 2)
    any_object = server.openai().chat.completions.create(**GREEDY, response_format={"type": "json_object"})
    assert (any_object.choices[0].message.content or "").lstrip().startswith("{")


def test_parameters_beyond_openais_go_by_the_extra_body(server: Server) -> None:
    client = server.openai()
    plain = client.chat.completions.create(**GREEDY)
    extra = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.0, "chat_template_kwargs": {"enable_thinking": True}}
    thinking = client.chat.completions.create(**SAMPLED, extra_body=extra)
    assert plain.usage is not None and thinking.usage is not None
    assert thinking.usage.prompt_tokens < plain.usage.prompt_tokens


def test_raw_completions_continue_texts_and_token_ids(server: Server) -> None:
    client = server.openai()
    asked: dict[str, Any] = {"model": "champion", "max_tokens": 6, "temperature": 0}
    texts = client.completions.create(**asked, prompt=["add one", "and two"], logprobs=2)
    ids = client.completions.create(**asked, prompt=[TOKENIZER.encode(text).ids for text in ("add one", "and two")])
    assert [choice.text for choice in texts.choices] == [choice.text for choice in ids.choices]
    logprobs = texts.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens is not None and logprobs.top_logprobs is not None
    assert len(logprobs.tokens) == len(logprobs.top_logprobs) == 6
    stream = client.completions.create(**asked, prompt="add one", stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == texts.choices[0].text
    assert last.usage is not None and last.usage.completion_tokens == 6


def test_a_model_goes_by_its_name_its_hash_and_the_beginning_of_that(first_is_champion: Server, models: Models) -> None:
    client, sha256 = first_is_champion.openai(), weights_sha256(models.first)
    for model in ("champion", "first", sha256, sha256[:8], sha256[:20]):
        assert client.chat.completions.create(**GREEDY | {"model": model}).system_fingerprint == sha256
    for model in (sha256[:7], sha256[8:20]):
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**GREEDY | {"model": model})


def test_every_refusal_is_an_exception_of_its_own(server: Server) -> None:
    client = server.openai()
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**GREEDY, tools=[{"type": "function", "function": {"name": "x"}}])
    assert (bad.value.param, bad.value.code) == ("tools", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**GREEDY | {"max_tokens": 10**6})
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        server.openai("wrong").models.list()
    with pytest.raises(openai.PermissionDeniedError):
        client.post(f"{server.url}/models/reload", body={"model_path": "x"}, cast_to=object)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.models.retrieve("nobody")
    assert unknown.value.code == "model_not_found"


def test_a_server_without_a_model_is_a_server_error_that_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    with ready_server(tmp_path_factory.mktemp("empty")) as empty, pytest.raises(openai.InternalServerError) as refused:
        empty.openai().chat.completions.create(**GREEDY)
    assert (refused.value.status_code, refused.value.code) == (503, "no_model")
    assert int(refused.value.response.headers["retry-after"]) >= 1


def test_a_cancelled_request_of_the_async_client_ends_all_its_generations(server: Server) -> None:
    async def check() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=READ_KEY, max_retries=0) as client:
            long: dict[str, Any] = GREEDY | {"max_tokens": 1900, "n": 4, "logit_bias": {"70": 100}}
            whole = asyncio.create_task(client.chat.completions.create(**long))
            stream = await client.chat.completions.create(**long, stream=True)
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    break
            assert running(server) > 0
            await stream.close()
            whole.cancel()
            with pytest.raises(asyncio.CancelledError):
                await whole
            for _ in range(200):
                if not running(server):
                    break
                await asyncio.sleep(0.02)
            assert not running(server)

    run(check())


def test_many_async_requests_at_once_each_get_their_own_answer(server: Server) -> None:
    async def check() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=READ_KEY, max_retries=0) as client:
            asked = [client.chat.completions.create(**GREEDY | {"logit_bias": {str(70 + at): 100}}) for at in range(16)]
            return [answer.choices[0].message.content or "" for answer in await asyncio.gather(*asked)]

    assert run(check()) == [TOKENIZER.decode([70 + at] * 12) for at in range(16)]


def running(server: Server) -> float:
    """Requests inside the engines."""
    lines = server.request("GET", "/metrics", key=ADMIN_KEY).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("gpu_assets:num_requests_running{"))
