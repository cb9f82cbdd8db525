"""What a request gets is its own, whoever else is in the batch, however it is scheduled."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.generation.continuous_batching.requests import RequestState

from gpu_assets.rendering import Bias, RowProcessor
from gpu_assets.settings import Serving
from serving.inference.engine import Generation, JsonGrammar, Sampling, Tokens
from serving.inference.transformers_engine import TransformersEngine
from tests.serving.inference.support import Models, StartEngine, run

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [list(range(10 + i, 40 + 2 * i)) for i in range(8)]
SAMPLINGS = [
    Sampling(),
    Sampling(presence_penalty=1.0, frequency_penalty=0.5),
    Sampling(temperature=1.0, seed=5),
    Sampling(repetition_penalty=1.4, logit_bias={40: 3.0, 41: -100.0}),
    Sampling(temperature=1.3, seed=6, top_k=40, top_p=0.9, min_p=0.05, frequency_penalty=0.7, repetition_penalty=1.1),
    Sampling(temperature=0.9, seed=7, min_p=0.2),
]


def mixed(max_tokens: int) -> list[Generation]:
    """One request of every kind, on prompts of several lengths."""
    asked = [
        Generation(
            PROMPTS[index % 8] * (1 + index % 3),
            max_tokens,
            sampling,
            incremental=index % 2 == 0,
            top_logprobs=(None, 0, 3)[index % 3],
        )
        for index, sampling in enumerate(SAMPLINGS * 2)
    ]
    schema = JsonGrammar({"type": "array", "items": {"type": "string"}, "minItems": 100})
    return [*asked, Generation(PROMPTS[1], max_tokens, Sampling(temperature=1.0, seed=9), grammar=schema)]


async def collect(engine: TransformersEngine, generation: Generation) -> Tokens:
    """The whole answer as one."""
    parts = [part async for part in engine.generate(generation)]
    logprobs = tuple(entry for part in parts for entry in part.logprobs)
    return Tokens([token for part in parts for token in part.ids], parts[-1].ended, parts[0].first_token_s, logprobs)


def answers(engine: TransformersEngine, generations: Sequence[Generation]) -> list[Tokens]:
    async def together() -> list[Tokens]:
        return await asyncio.gather(*(collect(engine, generation) for generation in generations))

    return run(together())


def assert_same(seen: list[Tokens], wanted: list[Tokens]) -> None:
    assert [tokens.ids for tokens in seen] == [tokens.ids for tokens in wanted]
    for one, other in zip(seen, wanted, strict=True):
        for entry, expected in zip(one.logprobs, other.logprobs, strict=True):
            assert entry.chosen.id == expected.chosen.id
            assert entry.chosen.logprob == pytest.approx(expected.chosen.logprob, abs=1e-4)


def test_every_kind_of_request_gets_in_a_batch_what_it_gets_alone(models: Models, start_engine: StartEngine) -> None:
    engine = start_engine(models.first, Serving(prefix_sharing=False))
    alone = [answers(engine, [generation])[0] for generation in mixed(20)]
    assert_same(answers(engine, mixed(20)), alone)
    assert len({tuple(tokens.ids) for tokens in alone}) > len(alone) / 2


def test_requests_that_are_preempted_and_started_anew_get_what_they_would_have(
    models: Models, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = answers(start_engine(models.first), mixed(150))
    anew, original = [], RequestState.create_equivalent_initial_request

    def counted(state: RequestState) -> RequestState:
        anew.append(state.request_id)
        return original(state)

    monkeypatch.setattr(RequestState, "create_equivalent_initial_request", counted)
    small = start_engine(models.first, Serving(max_context_tokens=512, cache_tokens=1024))
    seen = answers(small, mixed(150))
    assert anew
    assert_same(seen, wanted)
    assert small.stats().cache_use == 0


def test_requests_that_share_a_prefix_get_what_they_would_without(models: Models, start_engine: StartEngine) -> None:
    system = [(7 * i) % 400 + 5 for i in range(200)]
    asked = [
        Generation(system + generation.prompt_ids, 20, generation.sampling, top_logprobs=1) for generation in mixed(1)
    ]
    wanted = answers(start_engine(models.first, Serving(prefix_sharing=False)), asked)
    engine = start_engine(models.first, Serving(prefix_sharing=True))
    matched, search = [], engine_cache(engine).search_prefix_match

    def counted(request_id: str, prompt_ids: list[int]) -> int:
        matched.append(search(request_id, prompt_ids))
        return matched[-1]

    engine_cache(engine).search_prefix_match = counted
    assert_same(answers(engine, asked), wanted)
    assert_same(answers(engine, asked), wanted)
    assert max(matched) >= 192


def engine_cache(engine: TransformersEngine) -> Any:
    answers(engine, [Generation([5], 1)])
    return engine._manager.batch_processor.cache


class Steers:
    """A profile that wants one token, always."""

    def of_row(self, prompt: Sequence[int]) -> RowProcessor:
        return self

    def bias(self, generated: Sequence[int]) -> Bias:
        return Bias(tokens={44: 1000.0})


@pytest.mark.parametrize("incremental", [False, True])
def test_logprobs_are_the_models_own_for_each_token_whatever_changed_the_choice(
    models: Models, start_engine: StartEngine, incremental: bool
) -> None:
    engine = start_engine(models.first)
    model: Any = AutoModelForCausalLM.from_pretrained(models.first, dtype=torch.float32)
    asked = [
        Generation(PROMPTS[0], 12, Sampling(), incremental, top_logprobs=5),
        Generation(PROMPTS[1], 9, Sampling(temperature=2.0, seed=1), incremental, top_logprobs=0),
        Generation(PROMPTS[2], 7, Sampling(logit_bias={50: 500.0}, presence_penalty=2.0), incremental, top_logprobs=20),
        Generation(PROMPTS[3], 5, Sampling(), incremental),
    ]
    steered = start_engine(models.first)
    steered._steering = [Steers()]
    seen = answers(engine, asked) + answers(steered, asked[:1])
    assert set(seen[2].ids) == {50}
    assert set(seen[4].ids) == {44}
    for generation, tokens in zip([*asked, asked[0]], seen, strict=True):
        if generation.top_logprobs is None:
            assert tokens.logprobs == ()
            continue
        assert [entry.chosen.id for entry in tokens.logprobs] == tokens.ids
        with torch.no_grad():
            logits = model(torch.tensor([generation.prompt_ids + tokens.ids])).logits[0]
        truth = logits[len(generation.prompt_ids) - 1 : -1].log_softmax(dim=-1)
        for entry, expected in zip(tokens.logprobs, truth, strict=True):
            assert entry.chosen.logprob == pytest.approx(float(expected[entry.chosen.id]), abs=1e-4)
            best, ids = expected.topk(generation.top_logprobs)
            assert [top.id for top in entry.top] == ids.tolist()
            assert [top.logprob for top in entry.top] == pytest.approx(best.tolist(), abs=1e-4)


def test_a_preempted_request_keeps_the_time_of_its_first_token(models: Models, start_engine: StartEngine) -> None:
    small = start_engine(models.first, Serving(max_context_tokens=512, cache_tokens=1024))
    asked = [Generation([5 + i] * 150, 150) for i in range(8)]
    begun = asyncio.run(timed(small, asked))
    assert all(0 < first < 0.9 * whole for first, whole in begun[:2])


async def timed(engine: TransformersEngine, asked: list[Generation]) -> list[tuple[float, float]]:
    """Seconds to the first token and to the last, of each."""
    loop = asyncio.get_running_loop()

    async def one(generation: Generation) -> tuple[float, float]:
        began = loop.time()
        tokens = await collect(engine, generation)
        return tokens.first_token_s, loop.time() - began

    return await asyncio.gather(*(one(generation) for generation in asked))
