"""The real engine gives what `generate` gives, to everyone at once, and says so when it cannot."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.rendering import Bias, RowProcessor
from gpu_assets.settings import Serving
from serving.inference.engine import (
    EngineStopped,
    Generation,
    GenerationFailed,
    GenerationRefused,
    Sampling,
    Tokens,
)
from serving.inference.transformers_engine import TransformersEngine, load_engine
from tests.serving.inference.support import Inspect, Models, StartEngine, change_json, generate, generate_all, run

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [list(range(10 + i, 40 + 2 * i)) for i in range(8)]


@pytest.fixture
def engine(models: Models, start_engine: StartEngine) -> TransformersEngine:
    return start_engine(models.first)


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


async def first_tokens(engine: TransformersEngine, count: int) -> list[AsyncGenerator[Tokens, None]]:
    """Streams that would go on for long, each after its first token."""
    streams = [engine.generate(Generation(PROMPTS[i], 1500, incremental=True)) for i in range(count)]
    for stream in streams:
        await anext(stream)
    return streams


def test_an_engine_that_dies_fails_all_its_requests_and_takes_no_more(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("a page is gone")

    async def die_midway() -> None:
        streams = await first_tokens(engine, 3)
        whole = asyncio.create_task(generate(engine, Generation(PROMPTS[4], 1500)))
        monkeypatch.setattr(engine._manager.model, "forward", fail)
        for asked in (whole, *(rest_of(stream) for stream in streams)):
            with pytest.raises(EngineStopped, match="a page is gone"):
                await asked

    run(die_midway())
    assert not engine.alive
    with pytest.raises(EngineStopped, match="takes no requests"):
        run(generate(engine, Generation(PROMPTS[0], 4)))


async def rest_of(stream: AsyncGenerator[Tokens, None]) -> None:
    async for _ in stream:
        pass


class ThreadEnded(BaseException):
    """Nothing in the thread catches it, so that nothing tells of its requests."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_without_a_word_fails_all_its_requests(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: Any, **__: Any) -> None:
        raise ThreadEnded

    async def end_midway() -> None:
        streams = await first_tokens(engine, 2)
        monkeypatch.setattr(engine._manager.model, "forward", end)
        for stream in streams:
            with pytest.raises(EngineStopped, match="stopped while it generated"):
                await rest_of(stream)

    run(end_midway())
    assert not engine.alive


def test_a_stopped_engine_fails_what_it_has_not_finished(engine: TransformersEngine) -> None:
    async def stop_midway() -> None:
        (stream,) = await first_tokens(engine, 1)
        await asyncio.to_thread(engine.stop)
        with pytest.raises(EngineStopped):
            await rest_of(stream)

    run(stop_midway())
    assert not engine.alive


class Faulty:
    """A profile's processor that fails at the third token of answers to one prompt."""

    def __init__(self, prompt: list[int]) -> None:
        self.prompt = prompt

    def of_row(self, prompt: Sequence[int]) -> RowProcessor:
        return FaultyRow(list(prompt) == self.prompt)


class FaultyRow:
    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def bias(self, generated: Sequence[int]) -> Bias:
        if self.fails and len(generated) == 3:
            raise ZeroDivisionError("a faulty profile")
        return Bias()


@pytest.mark.parametrize("incremental", [False, True])
def test_a_request_whose_own_part_fails_fails_alone(
    engine: TransformersEngine, models: Models, incremental: bool
) -> None:
    wanted = run(generate_all(engine, [Generation(prompt, 16) for prompt in PROMPTS]))
    engine._steering = [Faulty(PROMPTS[2])]

    async def some_fail() -> None:
        asked = (generate(engine, Generation(prompt, 16, incremental=incremental)) for prompt in PROMPTS)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        failed = answers.pop(2)
        assert isinstance(failed, GenerationFailed) and "a faulty profile" in str(failed)
        assert answers == wanted[:2] + wanted[3:]
        while engine.stats().running:
            await asyncio.sleep(0.01)

    run(some_fail())
    assert engine.alive
    assert not engine._outputs._inboxes


@pytest.mark.parametrize(
    "generation",
    [
        Generation([], 4),
        Generation([5], 0),
        Generation([5] * 2000, 100),
        Generation([5, 512], 4),
        Generation([5, -1], 4),
        Generation([5], 4, Sampling(logit_bias={512: 1.0})),
        Generation([5], 4, Sampling(logit_bias={-1: 1.0})),
    ],
)
def test_what_would_stop_the_engine_for_all_is_refused(engine: TransformersEngine, generation: Generation) -> None:
    with pytest.raises(GenerationRefused, match=r"512|-1|tokens"):
        run(generate(engine, generation))
    assert len(run(generate(engine, Generation([5, 511], 4, Sampling(logit_bias={511: -1.0}))))) == 4


def test_memory_is_weights_and_cache_and_the_cache_in_use_is_what_requests_hold(engine: TransformersEngine) -> None:
    async def cache_use() -> float:
        stream = engine.generate(Generation([7] * 1000, 500, incremental=True))
        await anext(stream)
        held = engine.stats().cache_use
        await stream.aclose()
        while engine.stats().running:
            await asyncio.sleep(0.01)
        return held

    assert run(cache_use()) == pytest.approx(1024 / 8192, abs=64 / 8192)
    assert engine.stats().cache_use == 0
    weights = sum(tensor.nbytes for tensor in engine._manager.model.parameters())
    per_token = 2 * 4 * 2 * 32 * 4  # keys and values, layers, key-value heads, size of a head, bytes
    assert engine.memory_bytes == pytest.approx(weights + 8192 * per_token, abs=256 * per_token)


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


def test_weights_of_other_shapes_than_the_configs_are_refused_with_both(
    models: Models, inspect: Inspect, tmp_path: Path
) -> None:
    folder = tmp_path / "misshapen"
    shutil.copytree(models.plain, folder)
    change_json(folder / "config.json", intermediate_size=128)
    rows, columns = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].shape
    with pytest.raises(ArtifactInvalid) as refused:
        load_engine(inspect(folder), Serving())
    message = str(refused.value)
    assert message.startswith(f"{folder}: the shapes of 12 weights are not those of its config.json: ")
    assert f"model.layers.0.mlp.gate_proj.weight is ({rows}, {columns}), wanted (128, {columns}); " in message
    assert message.endswith("; put the config.json there that they were saved with")


def test_weights_that_are_cut_off_are_refused(models: Models, inspect: Inspect, tmp_path: Path) -> None:
    folder = tmp_path / "cut-off"
    shutil.copytree(models.plain, folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ArtifactInvalid, match="does not load"):
        load_engine(inspect(folder), Serving())
