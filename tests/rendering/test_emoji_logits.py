"""What emoji_think does to logits: finite for ever, the count that was asked for, and nothing before it is due."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from gpu_assets.base_model.tiny import build_tokenizer
from gpu_assets.rendering.profiles import get_profile
from gpu_assets.rendering.profiles.base import NO_BIAS, Bias, LogitsProcessor
from gpu_assets.rendering.profiles.emoji_logits import (
    END_BONUS,
    StopProcessor,
    ThinkTagProcessor,
    after_stop_penalty,
)
from gpu_assets.rendering.profiles.emoji_text import STOP_EMOJI, Run, instructions

END = "<|im_end|>"
LIMIT = 4_096
LARGEST_HALF = 65_504.0


def whole_emoji_tokenizer() -> Tokenizer:
    """Each stop emoji is one token, and so are two of them with what follows."""
    tokenizer = build_tokenizer()
    joined = ["🛑🛑", "🛑\n", "🛑.", "⏹️", "⏹"]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*joined, *STOP_EMOJI)])
    return tokenizer


def split_tag_tokenizer() -> Tokenizer:
    """Bytes, and the fragments of a think tag, as a vocabulary without the tags has them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fragments = ["think", ">Ċ", "</", ">>"]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *fragments])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return tokenizer


TINY, WHOLE, SPLIT = build_tokenizer(), whole_emoji_tokenizer(), split_tag_tokenizer()
TOKENIZERS = pytest.mark.parametrize("tokenizer", [TINY, WHOLE, SPLIT], ids=["tiny", "whole-emoji", "split-tags"])


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def prompt_that_asks(tokenizer: Tokenizer, emoji: str, times: int) -> list[int]:
    return ids_of(tokenizer, f"hello{instructions(Run('🤔', 2), Run(emoji, times))}{END}\n<|im_start|>assistant\n")


def stopped_after(tokenizer: Tokenizer, prompt: Sequence[int], answer: str) -> int | None:
    """Characters of the answer, as far as it is tokenized, after which the stop is complete; None if it never is."""
    row, ids = StopProcessor(tokenizer, END).of_row(prompt), ids_of(tokenizer, answer)
    for length in range(len(ids) + 1):
        if row.bias(ids[:length]) is not NO_BIAS:
            return len(tokenizer.decode(ids[:length], skip_special_tokens=False))
    return None


@TOKENIZERS
@pytest.mark.parametrize("emoji", STOP_EMOJI)
@pytest.mark.parametrize("times", [2, 3, 4])
def test_every_count_of_every_stop_emoji_can_be_written_and_no_more(
    tokenizer: Tokenizer, emoji: str, times: int
) -> None:
    prompt = prompt_that_asks(tokenizer, emoji, times)
    before = "the answer\n"
    assert stopped_after(tokenizer, prompt, f"{before}{emoji * (times - 1)}") is None
    assert stopped_after(tokenizer, prompt, f"{before}{emoji * times}") == len(before) + len(emoji) * times


@TOKENIZERS
@pytest.mark.parametrize("emoji", ["⏹️", "🛡️"])
def test_a_variation_selector_is_waited_for_but_not_insisted_on(tokenizer: Tokenizer, emoji: str) -> None:
    prompt = prompt_that_asks(tokenizer, emoji, 3)
    bare = emoji[0] * 3
    assert stopped_after(tokenizer, prompt, bare) is None
    assert stopped_after(tokenizer, prompt, f"{bare}qz") == len(bare) + 1
    assert stopped_after(tokenizer, prompt, f"{bare}\ufe0f") == len(bare) + 1


@TOKENIZERS
def test_other_stop_emoji_than_the_one_asked_for_end_nothing(tokenizer: Tokenizer) -> None:
    assert stopped_after(tokenizer, prompt_that_asks(tokenizer, "🛑", 2), "🚫🚫🚫🚫 go on ✋✋") is None


@TOKENIZERS
@pytest.mark.parametrize("times", [2, 3])
def test_where_the_prompt_asks_for_no_count_the_model_chooses_it(tokenizer: Tokenizer, times: int) -> None:
    prompt = ids_of(tokenizer, "hello")
    assert stopped_after(tokenizer, prompt, f"hi {'🚦' * times}") is None
    assert stopped_after(tokenizer, prompt, f"hi {'🚦' * times}qz") == 3 + times + 1
    assert stopped_after(tokenizer, prompt, f"hi {'🚦' * 4}") == 7
    assert stopped_after(tokenizer, prompt, "hi 🚦 and 🚦 again ✋") is None


@TOKENIZERS
def test_a_token_that_joins_the_last_emoji_with_what_follows_completes_the_stop(tokenizer: Tokenizer) -> None:
    prompt = prompt_that_asks(tokenizer, "🛑", 2)
    for after in ("\n", "."):
        assert stopped_after(tokenizer, prompt, f"hi 🛑🛑{after}") is not None


def test_after_the_stop_every_token_is_penalized_but_the_end_token() -> None:
    answer = ids_of(TINY, "hi\n🛑🛑")
    row = StopProcessor(TINY, END).of_row(prompt_that_asks(TINY, "🛑", 2))
    end = {TINY.token_to_id(END): END_BONUS}
    assert row.bias(answer) == Bias(-1_000.0, end)
    assert row.bias([*answer, 5]) == Bias(-10_000.0, end)
    assert row.bias([*answer, *[5] * LIMIT]) == Bias(-10_000.0, end)


def test_penalties_are_finite_in_half_precision_for_4096_tokens() -> None:
    assert all(0 < after_stop_penalty(n) <= LARGEST_HALF / 4 for n in range(1, LIMIT + 1))


tokens = st.one_of(
    st.lists(st.integers(0, TINY.get_vocab_size() - 1), max_size=200),
    st.lists(
        st.sampled_from([*STOP_EMOJI, "⏹", "\ufe0f", "<think>", "<", "think>", "</think", "a", "\n"]), max_size=20
    ).map(lambda pieces: ids_of(TINY, "".join(pieces))),
)


@settings(max_examples=60, deadline=None)
@given(beginning=tokens, filler=st.lists(st.integers(0, TINY.get_vocab_size() - 1), min_size=1, max_size=4))
def test_whatever_is_generated_the_biases_of_4096_tokens_are_finite_and_small(
    beginning: list[int], filler: list[int]
) -> None:
    answer = (beginning + filler * LIMIT)[:LIMIT]
    prompt = prompt_that_asks(TINY, "🔴", 3)
    rows = [processor.of_row(prompt) for processor in processors()]
    for length in (*range(64), *range(64, LIMIT + 1, 61), LIMIT):
        for row in rows:
            bias = row.bias(answer[:length])
            for value in (bias.others, *bias.tokens.values()):
                assert math.isfinite(value) and abs(value) <= LARGEST_HALF / 4


@settings(max_examples=100, deadline=None)
@given(answer=tokens, others=st.lists(tokens, max_size=3))
def test_a_row_follows_from_its_own_tokens_whatever_was_asked_before(
    answer: list[int], others: list[list[int]]
) -> None:
    prompt = prompt_that_asks(TINY, "🛑", 2)
    for processor in processors():
        grown, jumping = processor.of_row(prompt), processor.of_row(prompt)
        for length in range(len(answer) + 1):
            for other in others:
                jumping.bias(other[:length])
            fresh = processor.of_row(prompt).bias(answer[:length])
            assert grown.bias(answer[:length]) == fresh == jumping.bias(answer[:length])


def processors() -> Sequence[LogitsProcessor]:
    return get_profile("emoji_think").logits_processors(TINY, END)


def test_the_other_profiles_leave_logits_alone() -> None:
    assert not get_profile("plain").logits_processors(TINY, END)
    assert not get_profile("regime3").logits_processors(TINY, END)


@pytest.mark.parametrize(("step", "penalty"), [(0, 640), (3, 640), (4, 160), (7, 160), (8, 120), (11, 120), (12, 80)])
def test_think_tags_are_penalized_most_where_an_answer_begins(step: int, penalty: float) -> None:
    bias = ThinkTagProcessor(TINY).of_row(()).bias([5] * step)
    assert bias == Bias(0.0, {TINY.token_to_id(tag): -penalty for tag in ("<think>", "</think>")})


def test_where_a_tag_is_several_tokens_only_the_one_that_completes_it_is_penalized() -> None:
    row = ThinkTagProcessor(SPLIT).of_row(())
    for text in ("", "think", "I think", "<", "</", "a < b", "<thin", "5 > 4"):
        assert SPLIT.token_to_id("think") not in row.bias(ids_of(SPLIT, text)).tokens, text
        assert not row.bias(ids_of(SPLIT, text)).tokens, text
    completing = {SPLIT.token_to_id(token) for token in (">", ">Ċ", ">>")}
    for begun in ("<think", "so </think"):
        assert set(row.bias(ids_of(SPLIT, begun)).tokens) == completing
