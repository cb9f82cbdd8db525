"""Pieces of an answer: their text joined is the answer's, and their log-probabilities are those of its tokens."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.base_model.tiny import build_tokenizer
from serving.inference.choices import AnswerText, Piece, interleave
from serving.inference.engine import Tokens
from serving.inference.streaming import REPLACEMENT
from serving.inference.token_texts import TokenTexts
from tests.serving.inference.support import run, scripted_logprobs

TOKENIZER = build_tokenizer()
TEXTS = TokenTexts(TOKENIZER)
(END,) = TOKENIZER.encode("<|im_end|>").ids
IDS = st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=40)
CUTS = st.lists(st.integers(1, 4), min_size=1, max_size=8)
WORDS = st.text(alphabet=st.sampled_from("ab⓪é漢 "), max_size=30)


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids)


def pieces_of(
    ids: Sequence[int], sizes: Sequence[int], stops: Sequence[str] = (), at_once: bool = False
) -> list[Piece]:
    """The pieces of an answer that the model ends, whose tokens come in batches of sizes that repeat."""
    answer, whole, at = AnswerText(decode, stops, at_once), [*ids, END], 0
    pieces: list[Piece] = []
    while not pieces or pieces[-1].finish_reason is None:
        batch = whole[at : at + sizes[len(pieces) % len(sizes)]]
        at += len(batch)
        pieces.append(answer.push(Tokens(batch, True if at == len(whole) else None, 0.0, scripted_logprobs(batch, 1))))
    return pieces


def chosen(pieces: Sequence[Piece]) -> list[int]:
    return [entry.chosen.id for piece in pieces for entry, _ in piece.logprobs]


@given(IDS, CUTS)
def test_joined_pieces_are_the_text_and_each_of_its_tokens_has_its_entry(ids: list[int], sizes: list[int]) -> None:
    pieces = pieces_of(ids, sizes)
    assert "".join(piece.text for piece in pieces) == decode(ids)
    assert chosen(pieces) == ids
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]


@given(WORDS, CUTS)
def test_the_bytes_of_entries_joined_are_the_content(text: str, sizes: list[int]) -> None:
    ids = pieces_of(TOKENIZER.encode(text).ids, sizes)
    assert b"".join(TEXTS.of(token)[1] or b"" for token in chosen(ids)).decode() == text


@given(IDS, CUTS)
def test_no_entry_comes_before_its_text(ids: list[int], sizes: list[int]) -> None:
    shown, entries = "", []
    for piece in pieces_of(ids, sizes)[:-1]:
        shown += piece.text
        entries += chosen([piece])
        if REPLACEMENT not in (said := decode(entries)):
            assert shown.startswith(said)


@given(WORDS, st.lists(st.text("ab⓪漢", min_size=1, max_size=3), min_size=1, max_size=3), CUTS)
def test_entries_end_where_a_stop_string_cut_the_text(text: str, stops: list[str], sizes: list[int]) -> None:
    ids = TOKENIZER.encode(text).ids
    pieces = pieces_of(ids, sizes, stops)
    content = "".join(piece.text for piece in pieces)
    entries = chosen(pieces)
    assert entries == ids[: len(entries)]
    said = b"".join(TEXTS.of(token)[1] or b"" for token in entries)
    assert said.startswith(content.encode())
    before_last = b"".join(TEXTS.of(token)[1] or b"" for token in entries[:-1])
    assert not entries or len(before_last) < max(1, len(content.encode()))


@given(WORDS, CUTS)
def test_entries_name_where_their_token_begins_in_the_text(text: str, sizes: list[int]) -> None:
    placed = [
        (entry.chosen.id, at) for piece in pieces_of(TOKENIZER.encode(text).ids, sizes) for entry, at in piece.logprobs
    ]
    for token, at in placed:
        said = TEXTS.of(token)[0]
        assert said.startswith("\\x") or text[at:].startswith(said)


@given(IDS, CUTS)
def test_entries_that_are_wanted_at_once_come_with_their_ids_the_end_token_too(
    ids: list[int], sizes: list[int]
) -> None:
    pieces = pieces_of(ids, sizes, at_once=True)
    assert all(chosen([piece]) == piece.token_ids for piece in pieces)
    assert chosen(pieces) == [*ids, END]


def test_an_answer_that_ran_out_of_tokens_says_length() -> None:
    piece = AnswerText(decode, ()).push(Tokens(TOKENIZER.encode("ab").ids, False, 0.0))
    assert (piece.text, piece.finish_reason) == ("ab", "length")


async def source(name: str, count: int, closed: list[str], fails: bool = False) -> AsyncGenerator[str, None]:
    try:
        for number in range(count):
            await asyncio.sleep(0)
            yield f"{name}{number}"
        if fails:
            raise OSError(name)
    finally:
        closed.append(name)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_sources_are_interleaved_each_in_its_own_order(count: int) -> None:
    async def check() -> None:
        closed: list[str] = []
        found: dict[int, list[str]] = {}
        async with aclosing(interleave([source(f"s{at}-", 4, closed) for at in range(count)])) as items:
            async for number, item in items:
                found.setdefault(number, []).append(item)
        assert found == {at: [f"s{at}-{number}" for number in range(4)] for at in range(count)}
        assert len(closed) == count

    run(check())


def test_a_source_that_fails_ends_the_others_with_its_error() -> None:
    async def check() -> None:
        closed: list[str] = []
        sources = [source("a", 1_000_000, closed), source("b", 2, closed, fails=True)]
        with pytest.raises(OSError, match="b"):
            async with aclosing(interleave(sources)) as items:
                async for _ in items:
                    pass
        assert sorted(closed) == ["a", "b"]

    run(check())


def test_closing_closes_every_source() -> None:
    async def check() -> None:
        closed: list[str] = []
        async with aclosing(interleave([source(name, 1_000_000, closed) for name in "abc"])) as items:
            async for _ in items:
                break
        assert sorted(closed) == ["a", "b", "c"]

    run(check())
