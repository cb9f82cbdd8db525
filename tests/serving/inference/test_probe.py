"""A model that computes something else than the trained one is refused, and the served one stays."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from gpu_assets.base_model.fingerprint import compute_fingerprint
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Serving, Settings
from resources.artifacts import weights_sha256
from resources.fingerprint import TOP, Fingerprint, PromptFingerprint, difference
from serving.inference.engine import Engine, Generation, TokenLogprob, TokenLogprobs, Tokens
from serving.inference.loader import ModelFolder
from serving.inference.memory import Precision
from serving.inference.pool import ModelPool
from serving.inference.probe import MAX_DIFFERENCE, ProbeFailed, probe
from tests.serving.inference.support import (
    CHAT,
    VALID,
    Inspect,
    Models,
    ScriptedEngine,
    Server,
    change_json,
    error_of,
    run,
    write_model,
)


def write_fingerprinted(folder: Path, seed: int) -> Path:
    """A checkpoint as the trainer publishes it."""
    write_model(folder, seed, step=40)
    record_fingerprint(folder)
    return folder


def record_fingerprint(folder: Path) -> None:
    fingerprint = compute_fingerprint(folder, Renderer.load(folder, "plain"))
    change_json(folder / "manifest.json", fingerprint=fingerprint.to_json())


def change_weights(folder: Path, of: str, factor: float) -> None:
    """Multiply tensors, and have the manifest say that this is how it should be."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = {name: weight * factor if of in name else weight for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    change_json(folder / "manifest.json", weights_sha256=weights_sha256(folder))


def scale(folder: Path) -> None:
    change_weights(folder, "model.norm", 1.1)


def zero_a_layer(folder: Path) -> None:
    change_weights(folder, "layers.3.mlp", 0.0)


def break_numbers(folder: Path) -> None:
    change_weights(folder, "layers.0.mlp.down", math.nan)


def break_numbers_of_no_fingerprint(folder: Path) -> None:
    break_numbers(folder)
    change_json(folder / "manifest.json", fingerprint=None)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    change_json(folder / "manifest.json", weights_sha256=weights_sha256(folder))


def no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not tensors")
    change_json(folder / "manifest.json", weights_sha256=weights_sha256(folder))


def another_architecture(folder: Path) -> None:
    change_json(folder / "config.json", architectures=["LlamaForCausalLM"], model_type="llama")
    change_json(folder / "manifest.json", architecture="LlamaForCausalLM")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a norm that was scaled": (scale, "differ by"),
    "a layer that does nothing": (zero_a_layer, "differ by"),
    "numbers that are not finite": (break_numbers, "is not served"),
    "not finite, and nothing recorded": (break_numbers_of_no_fingerprint, "is not served"),
    "weights that end early": (truncate, "does not load"),
    "weights that are none": (no_weights_at_all, "no safetensors file"),
    "another architecture's code": (another_architecture, ""),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_folder_whose_hashes_fit_is_refused_for(what: str, first_is_champion: Server, tmp_path: Path) -> None:
    spoil, sentence = REFUSED[what]
    folder = write_fingerprinted(tmp_path / "checkpoint-40-0123abcd", seed=8)
    spoil(folder)
    before = first_is_champion.client.info()

    response = first_is_champion.request("POST", "/models/reload", json={"model_path": str(folder)})

    assert response.status_code == 409
    assert str(folder) in error_of(response)["message"]
    assert sentence in error_of(response)["message"]
    assert first_is_champion.client.info() == before
    assert first_is_champion.client.pool().loaded_count == 1
    assert first_is_champion.request("POST", CHAT, json=VALID).status_code == 200


def test_what_the_trainer_recorded_is_what_the_server_computes(first_is_champion: Server, tmp_path: Path) -> None:
    folder = write_fingerprinted(tmp_path / "checkpoint-40-0123abcd", seed=8)
    first_is_champion.client.reload(folder)
    assert first_is_champion.client.info().path == str(folder)


@pytest.fixture
def recorded(tmp_path: Path, inspect: Inspect) -> ModelFolder:
    return inspect(write_fingerprinted(tmp_path / "checkpoint-40-0123abcd", seed=8))


class Told(ScriptedEngine):
    """Says after every token what it was told to, or nothing of it."""

    next_tokens: list[tuple[int, float]]

    def _tokens(self, generation: Generation, ids: list[int], ended: bool | None) -> Tokens:
        top = tuple(TokenLogprob(*token) for token in self.next_tokens)
        return Tokens(ids, ended, 0.0, (TokenLogprobs(top[0], top),) * len(ids) if top else ())


def saying(next_tokens: list[tuple[int, float]]) -> Told:
    engine = Told([1])
    engine.next_tokens = next_tokens
    engine.start()
    return engine


def scripted(folder: ModelFolder, shift: float) -> Told:
    """Says what is recorded of the first prompt, every log-probability moved."""
    assert folder.fingerprint is not None
    return saying([(token, logprob + shift) for token, logprob in folder.fingerprint.prompts[0].next_tokens])


def with_prompts(folder: ModelFolder, prompts: list[PromptFingerprint]) -> ModelFolder:
    return replace(folder, fingerprint=Fingerprint(prompts))


def test_a_certain_first_token_does_not_hide_other_weights(recorded: ModelFolder) -> None:
    assert recorded.fingerprint is not None
    first, later = [PromptFingerprint([60], [(70, 0.0)]), PromptFingerprint([60, 61], [(70, -0.7), (71, -0.7)])]
    engine = saying([(70, 0.0), (71, -9.0)])
    run(probe(engine, with_prompts(recorded, [first]), "bf16", timeout_s=10))
    with pytest.raises(ProbeFailed, match=r"differ by 2\.25 nats"):
        run(probe(engine, with_prompts(recorded, [first, later]), "bf16", timeout_s=10))


def test_the_prompts_are_asked_at_once(recorded: ModelFolder) -> None:
    assert recorded.fingerprint is not None
    most = 0

    class Counting(Told):
        async def generate(self, generation: Generation) -> AsyncGenerator[Tokens, None]:
            nonlocal most
            most = max(most, self.running + 1)
            self.running += 1
            await asyncio.sleep(0.01)
            self.running -= 1
            async for tokens in super().generate(generation):
                yield tokens

    engine = Counting([1])
    engine.next_tokens, engine.alive = recorded.fingerprint.prompts[0].next_tokens, True
    one = with_prompts(recorded, recorded.fingerprint.prompts[:1] * 12)
    run(probe(engine, one, "fp32", timeout_s=10))
    assert most == 12


def test_the_refusal_says_what_was_seen_and_what_is_usual(recorded: ModelFolder) -> None:
    assert recorded.fingerprint is not None
    one = with_prompts(recorded, recorded.fingerprint.prompts[:1])
    with pytest.raises(ProbeFailed, match=r"differ by 0\.2 nats .* at most 0\.15 are usual in bf16"):
        run(probe(scripted(one, 0.2), one, "bf16", timeout_s=10))


def test_fp32_is_held_to_less_than_bf16(recorded: ModelFolder) -> None:
    assert recorded.fingerprint is not None
    one = with_prompts(recorded, recorded.fingerprint.prompts[:1])
    cases: list[tuple[Precision, float, bool]] = [("fp32", 5e-4, True), ("fp32", 5e-3, False), ("bf16", 5e-3, True)]
    for precision, shift, passes in cases:
        engine = scripted(one, shift)
        if passes:
            run(probe(engine, one, precision, timeout_s=10))
        else:
            with pytest.raises(ProbeFailed, match="usual in fp32"):
                run(probe(engine, one, precision, timeout_s=10))


def test_an_engine_that_gives_no_log_probabilities_cannot_be_compared(recorded: ModelFolder) -> None:
    with pytest.raises(ProbeFailed, match="differ by nan"):
        run(probe(saying([]), recorded, "fp32", timeout_s=10))


def test_an_answer_without_a_token_is_none(models: Models, inspect: Inspect) -> None:
    engine = ScriptedEngine([])
    engine.start()
    with pytest.raises(ProbeFailed, match="with no token"):
        run(probe(engine, inspect(models.first), "fp32", timeout_s=10))


def test_a_context_that_holds_no_smoke_prompt_is_a_setting_to_change(models: Models, inspect: Inspect) -> None:
    engine = ScriptedEngine([1], max_context_tokens=8)
    engine.start()
    with pytest.raises(ProbeFailed, match="raise serving.max_context_tokens"):
        run(probe(engine, inspect(models.first), "fp32", timeout_s=10))


def test_the_model_before_stays_held_so_that_a_rollback_loads_nothing(settings: Settings, models: Models) -> None:
    loads: list[str] = []

    def load(folder: ModelFolder) -> Engine:
        loads.append(folder.name)
        return ScriptedEngine([1])

    async def check() -> None:
        pool = ModelPool(settings, load)
        first = await pool.reload(models.first)
        await pool.reload(models.second)
        assert await pool.reload(models.first) is first
        assert loads == ["first", "second"]

    run(check())


def test_the_manifest_of_a_fingerprint_that_is_none_is_refused(inspect: Inspect, recorded: ModelFolder) -> None:
    change_json(recorded.path / "manifest.json", fingerprint={"prompts": [{"prompt_ids": "x"}]})
    with pytest.raises(Exception, match="is not a model's manifest"):
        inspect(recorded.path)


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        ([(1, -0.5), (2, -1.0)], 0.0),
        ([(1, -0.7), (2, -1.0)], 0.2 * math.exp(-0.5) / (math.exp(-0.5) + math.exp(-1.0))),
        ([(1, -0.5), (3, -1.0)], 0.0),
        ([(1, -0.5), (3, -1.4)], 0.4 * math.exp(-1.0) / (math.exp(-0.5) + math.exp(-1.0))),
    ],
    ids=["the same", "another value", "a tie at the edge", "a token that is missing"],
)
def test_a_difference_weighs_tokens_by_what_they_were_likely(seen: list[tuple[int, float]], wanted: float) -> None:
    assert difference({1: -0.5, 2: -1.0}, seen) == pytest.approx(wanted)


@pytest.mark.parametrize("seen", [[], [(1, math.nan)], [(1, -0.5), (2, -math.inf)]], ids=["none", "nan", "infinite"])
def test_a_difference_to_what_is_no_number_is_none(seen: list[tuple[int, float]]) -> None:
    assert not difference({1: -0.5, 2: -1.0}, seen) <= MAX_DIFFERENCE["bf16"]


def test_the_rounding_of_bf16_stays_within_its_limit(recorded: ModelFolder) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    assert recorded.fingerprint is not None
    model = AutoModelForCausalLM.from_pretrained(recorded.path, dtype=torch.bfloat16, local_files_only=True).eval()
    differences = []
    for prompt in recorded.fingerprint.prompts:
        with torch.inference_mode():
            likeliest = model(torch.tensor([prompt.prompt_ids])).logits[0, -1].float().log_softmax(-1).topk(TOP)
        seen = list(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))
        differences.append(difference(prompt.logprobs, seen))
    assert MAX_DIFFERENCE["fp32"] < fmean(differences) < MAX_DIFFERENCE["bf16"] / 10


def test_a_fingerprint_survives_being_written(recorded: ModelFolder) -> None:
    manifest = json.loads((recorded.path / "manifest.json").read_text())
    assert recorded.fingerprint is not None
    assert manifest["fingerprint"] == json.loads(json.dumps(recorded.fingerprint.to_json()))
    assert [len(prompt.next_tokens) for prompt in recorded.fingerprint.prompts] == [TOP] * 12
    assert Serving().max_context_tokens > max(len(prompt.prompt_ids) for prompt in recorded.fingerprint.prompts)
