"""The real engine gives what `generate` gives, to everyone at once, and says so when it cannot."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import Serving
from serving.inference.engine import EngineStopped, Generation, Sampling
from serving.inference.sampler import filter_logits
from serving.inference.transformers_engine import TransformersEngine, load_engine
from tests.serving.inference.support import Inspect, Models, StartEngine, generate, generate_all, run

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [list(range(10 + i, 40 + 2 * i)) for i in range(8)]


@pytest.fixture
def engine(models: Models, start_engine: StartEngine) -> TransformersEngine:
    return start_engine(models.first)


def test_greedy_answers_of_a_batch_are_those_of_generate(engine: TransformersEngine, models: Models) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(models.first, dtype=torch.float32)
    wanted = [
        model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
        for prompt in PROMPTS
    ]
    sampled = Generation(PROMPTS[0], 24, Sampling(temperature=1.5))
    greedy = [Generation(prompt, 24, incremental=i % 2 == 0) for i, prompt in enumerate(PROMPTS)]
    assert run(generate_all(engine, [sampled, *greedy]))[1:] == wanted


def test_a_seed_repeats_its_answer_in_any_company(engine: TransformersEngine) -> None:
    seeded = Generation(PROMPTS[0], 16, Sampling(temperature=1.0, top_p=0.9, top_k=50, seed=7))
    other = Generation(PROMPTS[0], 16, Sampling(temperature=1.0, top_p=0.9, top_k=50, seed=8))
    company = [Generation(prompt, 16, Sampling(temperature=1.0)) for prompt in PROMPTS[1:]]
    alone = run(generate(engine, seeded))
    answers = run(generate_all(engine, [*company, seeded, other]))
    assert answers[-2] == alone
    assert answers[-1] != alone


def test_a_request_that_fills_the_whole_cache_is_served(models: Models, start_engine: StartEngine) -> None:
    engine = start_engine(models.first, Serving(max_context_tokens=1024, cache_tokens=1024))
    assert engine.max_context_tokens == 1024
    prompt = [7] * 1000
    answers = run(generate_all(engine, [Generation(prompt, 24)] * 3))
    assert [len(answer) for answer in answers] == [24, 24, 24]
    assert answers[0] == answers[1] == answers[2]


def test_leaving_early_cancels_the_request(engine: TransformersEngine) -> None:
    async def leave() -> None:
        tokens = engine.generate(Generation(PROMPTS[0], 1500, incremental=True))
        await anext(tokens)
        await tokens.aclose()
        async with asyncio.timeout(10):
            while engine.stats().running:
                await asyncio.sleep(0.01)

    run(leave())
    assert len(run(generate(engine, Generation(PROMPTS[0], 4)))) == 4


def test_an_engine_that_dies_fails_its_requests_and_takes_no_more(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("a page is gone")

    monkeypatch.setattr(engine._manager.model, "forward", fail)
    with pytest.raises(EngineStopped, match="a page is gone"):
        run(generate(engine, Generation(PROMPTS[0], 4)))
    assert not engine.alive
    with pytest.raises(EngineStopped, match="takes no requests"):
        run(generate(engine, Generation(PROMPTS[0], 4)))


def test_a_stopped_engine_fails_what_it_has_not_finished(engine: TransformersEngine) -> None:
    async def stop_midway() -> None:
        tokens = engine.generate(Generation(PROMPTS[0], 1500, incremental=True))
        await anext(tokens)
        await asyncio.to_thread(engine.stop)
        with pytest.raises(EngineStopped):
            async for _ in tokens:
                pass

    run(stop_midway())
    assert not engine.alive


def test_weights_that_do_not_fill_the_architecture_are_refused(
    models: Models, inspect: Inspect, tmp_path: Path
) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(models.plain, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactInvalid, match="up_proj"):
        load_engine(inspect(folder), Serving())


def test_weights_that_are_cut_off_are_refused(models: Models, inspect: Inspect, tmp_path: Path) -> None:
    folder = tmp_path / "cut-off"
    shutil.copytree(models.plain, folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ArtifactInvalid, match="does not load"):
        load_engine(inspect(folder), Serving())


LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1.0), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, top_k=2), {1, 3}),
        (Sampling(temperature=1.0, top_k=99), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, top_p=0.5), {1, 3}),
        (Sampling(temperature=1.0, top_p=0.01), {1}),
        (Sampling(temperature=1.0, top_p=0.95, top_k=3), {1, 2, 3}),
    ],
)
def test_top_k_and_top_p_keep_the_likeliest(sampling: Sampling, kept: set[int]) -> None:
    filtered = filter_logits(LOGITS, [sampling])[0]
    assert {token for token in range(4) if filtered[token] > -torch.inf} == kept


def test_sampled_tokens_follow_the_softmax(engine: TransformersEngine) -> None:
    sampler = engine._manager.logit_processor.logits_processor[0]
    rows = 4000
    sampler._sampled = [(row, Sampling(temperature=1.0), 0) for row in range(rows)]
    torch.manual_seed(0)
    drawn = sampler(LOGITS.repeat(rows, 1), torch.zeros(rows)).argmax(dim=-1)
    shares = torch.bincount(drawn, minlength=4) / rows
    assert torch.allclose(shares, LOGITS[0].exp(), atol=0.03)
