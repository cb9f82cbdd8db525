"""A checkpoint's profile steers its answers in the server: row by row, greedy and sampled, streamed and whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from gpu_assets.base_model.tiny import architecture, build_tokenizer, write_tiny_model
from gpu_assets.rendering import Bias, Message, Renderer
from gpu_assets.rendering.profiles import get_profile
from gpu_assets.rendering.profiles.emoji_text import STOP_EMOJI, Run, asked_stop, instructions
from serving.inference.engine import Engine, Generation, Sampling
from serving.inference.row_biases import RowSteering, apply_biases
from tests.serving.inference.support import Server, StartEngine, generate_all, ready_server, run, write_manifest

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENIZER = build_tokenizer()
END = "<|im_end|>"
SURE, LIKELY = 3.0, 1.0
"""Shares of a token's direction in the embedding of the one before it; the others have none."""


def write_model_that_says(folder: Path, profile: str, chain: str, *, second: str | None = None) -> Path:
    """A real Qwen3 that looks at the last token only and goes round `chain`; `second` is its other choice at first.

    Without a profile it never ends an answer. Embeddings are one-hot, attention and MLP add nothing, and the
    head's rows say what follows what.
    """
    folder.mkdir(parents=True)
    write_tiny_model(folder, seed=1)
    size = architecture()["vocab_size"]
    config = Qwen3Config(
        **(architecture() | {"hidden_size": size, "tie_word_embeddings": False, "num_hidden_layers": 1}),
        eos_token_id=TOKENIZER.token_to_id(END),
        pad_token_id=TOKENIZER.token_to_id("<|endoftext|>"),
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    head = torch.zeros(size, size)
    ids = TOKENIZER.encode(chain, add_special_tokens=False).ids
    first = TOKENIZER.encode("\n", add_special_tokens=False).ids[-1]
    for before, after in zip([first, *ids], [*ids, ids[0]], strict=True):
        head[after, before] = SURE
    if second is not None:
        head[TOKENIZER.encode(second, add_special_tokens=False).ids[0], first] = LIKELY
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(head)
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "chat_template.jinja").write_text(Renderer.load(folder, profile).template)
    return write_manifest(folder, profile, step=10)


@dataclass(frozen=True)
class Steered:
    """Folders of two models: one would write stop emoji for ever, the other begins with a think tag."""

    stops: Path
    thinks: Path
    stops_unsteered: Path
    thinks_unsteered: Path


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Steered:
    root = tmp_path_factory.mktemp("steered")
    return Steered(
        stops=write_model_that_says(root / "stops", "emoji_think", "🛑"),
        thinks=write_model_that_says(root / "thinks", "emoji_think", "<think>", second="five"),
        stops_unsteered=write_model_that_says(root / "stops-unsteered", "regime3", "🛑"),
        thinks_unsteered=write_model_that_says(root / "thinks-unsteered", "regime3", "<think>", second="five"),
    )


def answers_of(engine: Engine, generations: list[Generation]) -> list[str]:
    return [TOKENIZER.decode(ids, skip_special_tokens=False) for ids in run(generate_all(engine, generations))]


def prompt_asking(folder: Path, emoji: str, times: int) -> list[int]:
    question = f"hello{instructions(None, Run(emoji, times))}"
    return Renderer.load(folder, "emoji_think").prompt_ids([{"role": "user", "content": question}])


def test_answers_of_one_batch_end_at_the_count_that_each_prompt_asks_for(
    start_engine: StartEngine, steered: Steered
) -> None:
    wanted = [2, 3, 4, 3, 2, 4, 4]
    generations = [
        Generation(
            prompt_asking(steered.stops, "🛑", times),
            max_tokens=64,
            sampling=Sampling(temperature=0.7, seed=index) if index % 2 else Sampling(),
            incremental=index % 3 == 0,
        )
        for index, times in enumerate(wanted)
    ]
    answers = answers_of(start_engine(steered.stops), generations)
    assert answers == [f"{'🛑' * times}{END}" for times in wanted]


def test_without_the_profile_the_same_weights_never_end(start_engine: StartEngine, steered: Steered) -> None:
    prompt = Renderer.load(steered.stops_unsteered, "regime3").prompt_ids([{"role": "user", "content": "hello"}])
    per_emoji = len(TOKENIZER.encode("🛑", add_special_tokens=False).ids)
    answers = answers_of(start_engine(steered.stops_unsteered), [Generation(prompt, max_tokens=per_emoji * 9)])
    assert answers == ["🛑" * 9]


def test_a_think_tag_is_not_begun_with_where_the_profile_forbids_it(
    start_engine: StartEngine, steered: Steered
) -> None:
    for folder, profile, begins in (
        (steered.thinks, "emoji_think", "f"),
        (steered.thinks_unsteered, "regime3", "<think>"),
    ):
        prompt = Renderer.load(folder, profile).prompt_ids([{"role": "user", "content": "hello"}])
        (answer,) = answers_of(start_engine(folder), [Generation(prompt, max_tokens=1)])
        assert answer.startswith(begins)


@pytest.fixture(scope="module")
def steered_server(tmp_path_factory: pytest.TempPathFactory, steered: Steered) -> Iterator[Server]:
    with ready_server(tmp_path_factory.mktemp("steered-server"), "--model", str(steered.stops)) as started:
        yield started


def test_the_server_asks_as_training_does_and_ends_where_it_asked(steered_server: Server, steered: Steered) -> None:
    profile, client = get_profile("emoji_think"), steered_server.openai()
    renderer = Renderer.load(steered.stops, "emoji_think")
    seen = set()
    for number in range(200):
        messages: list[Message] = [{"role": "user", "content": f"question {number}"}]
        asked = asked_stop(profile.transform_prompt(messages, None)[-1]["content"])
        assert asked is not None
        if asked.emoji != "🛑" or asked.times in seen:
            continue
        seen.add(asked.times)
        answer = client.chat.completions.create(model="champion", messages=messages, max_tokens=64, temperature=0)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == "🛑" * asked.times
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None and answer.usage.prompt_tokens == len(renderer.prompt_ids(messages))
    assert seen == {2, 3, 4}


def test_biases_change_their_own_rows_only_and_leave_what_came_in() -> None:
    scores = torch.zeros(3, 5)
    biased = apply_biases(scores, [(0, Bias()), (1, Bias(-1_000.0, {4: 50.0})), (1, Bias(tokens={2: -80.0}))])
    assert biased.tolist() == [[0.0] * 5, [-1000.0, -1000.0, -1080.0, -1000.0, 50.0], [0.0] * 5]
    assert not scores.any()


answers = st.lists(
    st.sampled_from([*STOP_EMOJI, "⏹", "\ufe0f", "<think>", "</think", ">", "a", " b", "\n"]), max_size=12
).map(lambda pieces: list(TOKENIZER.encode("".join(pieces), add_special_tokens=False).ids))
rows = st.tuples(st.sampled_from(["plain", "emoji_think", "regime3"]), st.integers(2, 4), answers)


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(rows, min_size=1, max_size=6), steps=st.lists(st.integers(0, 60), min_size=1, max_size=4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_a_mixed_batch_are_what_they_are_alone(
    dtype: torch.dtype, batch: list[tuple[str, int, list[int]]], steps: list[int]
) -> None:
    """Any profiles side by side, each row at any step: no row knows of another, and every score is finite."""
    made = [(RowSteering(get_profile(name).logits_processors(TOKENIZER, END), prompt(times)), prompt(times), ids)
            for name, times, ids in batch]  # fmt: skip
    scores = torch.randn(len(batch), TOKENIZER.get_vocab_size(), generator=torch.Generator().manual_seed(0)).to(dtype)
    for step in steps:
        together = [(place, bias) for place, (row, asked, ids) in enumerate(made)
                    for bias in row.biases([*asked, *ids[:step]])]  # fmt: skip
        biased = apply_biases(scores, together)
        assert biased.isfinite().all()
        for place, ((name, _, ids), (_, asked, _)) in enumerate(zip(batch, made, strict=True)):
            alone = RowSteering(get_profile(name).logits_processors(TOKENIZER, END), asked).biases(
                [*asked, *ids[:step]]
            )
            assert torch.equal(biased[place], apply_biases(scores[place : place + 1], [(0, b) for b in alone])[0])
            if name != "emoji_think":
                assert torch.equal(biased[place], scores[place])


def prompt(times: int) -> list[int]:
    return list(TOKENIZER.encode(f"hello{instructions(None, Run('🛑', times))}", add_special_tokens=False).ids)


def test_4096_tokens_of_a_row_that_ignores_its_stop_stay_finite_in_half_precision() -> None:
    row = RowSteering(get_profile("emoji_think").logits_processors(TOKENIZER, END), prompt(2))
    ids = [*TOKENIZER.encode("🛑🛑", add_special_tokens=False).ids, *[5] * 4_096]
    scores = torch.zeros(1, TOKENIZER.get_vocab_size(), dtype=torch.float16)
    end = TOKENIZER.token_to_id(END)
    for length in range(8, len(ids)):
        biases = [(0, bias) for bias in row.biases([*prompt(2), *ids[:length]])]
        if length % 64 == 0 or length < 80:
            biased = apply_biases(scores, biases)
            assert biased.isfinite().all()
            assert int(biased.argmax()) == end
