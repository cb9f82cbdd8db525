"""What every engine keeps of the contract: transformers in this process, and vLLM's protocol spoken by a stand-in.

The stand-in is a real process with the transformers engine behind vLLM's HTTP interface: what is proved of
`VllmEngine` is its part of the conversation, its process and its end; vLLM itself is not here.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from gpu_assets.settings import Profile, Serving
from serving.inference.engine import Engine, EngineStats, EngineStopped, Generation, Sampling, Tokens
from serving.inference.loader import ModelFolder, inspect_folder
from serving.inference.transformers_engine import load_engine
from tests.serving.inference.support import Inspect, Models, generate, generate_all, run
from tests.serving.inference.vllm_stand_in import started_stand_in

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [list(range(10 + i, 40 + 2 * i)) for i in range(8)]
ENGINES = ("hf", "vllm")


def start(kind: str, models: Models, inspect: Inspect, home: Path, stopping: ExitStack) -> Engine:
    if kind == "vllm":
        return stopping.enter_context(started_stand_in(inspect(models.first), home))
    engine = load_engine(inspect(models.first), Serving(cache_tokens=8192))
    stopping.callback(engine.stop)
    engine.start()
    return engine


@pytest.fixture(scope="module", params=ENGINES)
def engine(
    request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """One for the tests that leave it as they found it."""
    with ExitStack() as stopping:
        yield start(request.param, models, inspect_plain, tmp_path_factory.mktemp("home"), stopping)


@pytest.fixture(params=ENGINES)
def own_engine(request: pytest.FixtureRequest, models: Models, inspect: Inspect, tmp_path: Path) -> Iterator[Engine]:
    with ExitStack() as stopping:
        yield start(request.param, models, inspect, tmp_path, stopping)


def inspect_plain(path: Path) -> ModelFolder:
    return inspect_folder(path, Profile())


async def tokens_of(engine: Engine, generation: Generation) -> list[Tokens]:
    return [tokens async for tokens in engine.generate(generation)]


async def until(engine: Engine, wanted: Any) -> EngineStats:
    async with asyncio.timeout(20):
        while not wanted(engine.stats()):
            await asyncio.sleep(0.01)
    return engine.stats()


def test_greedy_answers_of_a_batch_are_those_of_generate(engine: Engine, models: Models) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(models.first, dtype=torch.float32)
    wanted = [
        model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
        for prompt in PROMPTS
    ]
    sampled = Generation(PROMPTS[0], 24, Sampling(temperature=1.5))
    greedy = [Generation(prompt, 24, incremental=i % 2 == 0) for i, prompt in enumerate(PROMPTS)]
    assert run(generate_all(engine, [sampled, *greedy]))[1:] == wanted


def test_an_incremental_answer_comes_in_parts_and_the_last_says_how_it_ended(engine: Engine) -> None:
    whole = run(tokens_of(engine, Generation(PROMPTS[0], 24)))
    parts = run(tokens_of(engine, Generation(PROMPTS[0], 24, incremental=True)))
    assert len(whole) == 1 and len(parts) > 1
    assert [token for part in parts for token in part.ids] == whole[0].ids
    assert [part.ended for part in parts] == [None] * (len(parts) - 1) + [False]
    assert whole[0].ended is False
    assert all(part.first_token_s > 0 for part in parts)


def test_an_answer_that_the_model_ends_is_told_from_one_that_is_cut(engine: Engine, models: Models) -> None:
    end = inspect_plain(models.first).renderer.end_token_id
    (tokens,) = run(tokens_of(engine, Generation(PROMPTS[0], 8, Sampling(logit_bias={end: 1000.0}))))
    assert tokens.ids == [end]
    assert tokens.ended is True


@pytest.mark.parametrize("seed", [7, -7])
def test_a_seed_repeats_its_answer_in_any_company(engine: Engine, seed: int) -> None:
    seeded = Generation(PROMPTS[0], 16, Sampling(temperature=1.0, top_p=0.9, top_k=50, seed=seed))
    other = Generation(PROMPTS[0], 16, Sampling(temperature=1.0, top_p=0.9, top_k=50, seed=8))
    company = [Generation(prompt, 16, Sampling(temperature=1.0)) for prompt in PROMPTS[1:]]
    alone = run(generate(engine, seeded))
    answers = run(generate_all(engine, [*company, seeded, other]))
    assert answers[-2] == alone
    assert answers[-1] != alone


def test_a_bias_decides_what_is_drawn_and_not_what_the_model_thinks_of_it(engine: Engine) -> None:
    (plain,) = run(tokens_of(engine, Generation(PROMPTS[0], 1, top_logprobs=3)))
    (best,) = plain.logprobs
    second = best.top[1]
    biased = Sampling(logit_bias={best.chosen.id: -100.0})
    (tokens,) = run(tokens_of(engine, Generation(PROMPTS[0], 1, biased, top_logprobs=3)))
    assert tokens.ids == [second.id]
    assert tokens.logprobs[0].chosen.logprob == pytest.approx(second.logprob, abs=1e-4)
    assert tokens.logprobs[0].top == tuple(
        type(each)(each.id, pytest.approx(each.logprob, abs=1e-4)) for each in best.top
    )


@pytest.mark.parametrize("incremental", [True, False])
def test_every_token_has_its_logprobs_best_first(engine: Engine, incremental: bool) -> None:
    parts = run(tokens_of(engine, Generation(PROMPTS[1], 12, incremental=incremental, top_logprobs=4)))
    ids = [token for part in parts for token in part.ids]
    entries = [entry for part in parts for entry in part.logprobs]
    assert [entry.chosen.id for entry in entries] == ids
    for entry in entries:
        assert entry.top[0] == entry.chosen  # greedy
        values = [each.logprob for each in entry.top]
        assert len(values) == 4 and values == sorted(values, reverse=True) and values[0] <= 0


def test_no_likeliest_are_given_where_none_are_asked_for(engine: Engine) -> None:
    (tokens,) = run(tokens_of(engine, Generation(PROMPTS[1], 4, top_logprobs=0)))
    assert [entry.top for entry in tokens.logprobs] == [()] * 4
    (tokens,) = run(tokens_of(engine, Generation(PROMPTS[1], 4)))
    assert tokens.logprobs == ()


def test_a_repetition_penalty_changes_a_repetitive_answer(engine: Engine) -> None:
    plain = run(generate(engine, Generation([7] * 30, 16)))
    penalized = run(generate(engine, Generation([7] * 30, 16, Sampling(repetition_penalty=5.0))))
    assert len(set(penalized)) > len(set(plain))


def test_leaving_early_cancels_the_request(engine: Engine) -> None:
    async def leave() -> None:
        tokens = engine.generate(Generation(PROMPTS[0], 1500, incremental=True))
        await anext(tokens)
        reading = asyncio.create_task(until(engine, lambda stats: stats.running == 1))
        while not reading.done():
            await anext(tokens)
        await tokens.aclose()
        await until(engine, lambda stats: stats.running == 0)

    run(leave())
    assert len(run(generate(engine, Generation(PROMPTS[0], 4)))) == 4


def test_an_engine_tells_its_sizes(engine: Engine) -> None:
    assert engine.alive
    assert engine.max_context_tokens == 2048
    assert engine.memory_bytes is None or engine.memory_bytes > 0


def test_a_stopped_engine_fails_what_it_has_not_finished_and_takes_no_more(own_engine: Engine) -> None:
    async def stop_midway() -> None:
        tokens = own_engine.generate(Generation(PROMPTS[0], 1500, incremental=True))
        await anext(tokens)
        await asyncio.to_thread(own_engine.stop)
        with pytest.raises(EngineStopped):
            async for _ in tokens:
                pass

    run(stop_midway())
    assert not own_engine.alive
    with pytest.raises(EngineStopped, match="takes no requests"):
        run(generate(own_engine, Generation(PROMPTS[0], 4)))
