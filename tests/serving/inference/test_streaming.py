"""Streams give exactly the text that decoding at once gives, character by whole character."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.base_model.tiny import build_tokenizer
from serving.inference.streaming import MAX_HELD, REPLACEMENT, StopStrings, TextStream, TokenDecoder, event
from tests.serving.inference.support import names_no_token

TOKENIZER = build_tokenizer()
TEXTS = st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("⓪①é漢🙂 \n")), max_size=40).filter(
    partial(names_no_token, TOKENIZER)
)
CUTS = st.lists(st.integers(1, 4), min_size=1, max_size=8)


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids)


def split(ids: list[int], sizes: list[int]) -> list[list[int]]:
    """`ids` in pieces whose sizes repeat."""
    pieces, at, turn = [], 0, 0
    while at < len(ids):
        size = sizes[turn % len(sizes)]
        pieces.append(ids[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


def stream(ids: list[int], sizes: list[int], stops: tuple[str, ...] = ()) -> list[str]:
    text = TextStream(decode, stops)
    pieces = [text.push(piece) for piece in split(ids, sizes)]
    return [*pieces, text.finish()]


@given(TEXTS, CUTS)
def test_the_pieces_of_a_stream_joined_are_the_text(text: str, sizes: list[int]) -> None:
    ids = TOKENIZER.encode(text).ids
    assert "".join(stream(ids, sizes)) == decode(ids) == text


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=40), CUTS)
def test_any_tokens_stream_to_what_they_decode_to_at_once(ids: list[int], sizes: list[int]) -> None:
    assert "".join(stream(ids, sizes)) == decode(ids)


@given(TEXTS.filter(lambda text: REPLACEMENT not in text))
def test_no_piece_ever_holds_a_part_of_a_character(text: str) -> None:
    assert all(REPLACEMENT not in piece for piece in stream(TOKENIZER.encode(text).ids, [1]))


def test_a_three_byte_character_is_held_until_its_last_byte() -> None:
    ids = TOKENIZER.encode("漢").ids
    assert len(ids) == 3
    decoder = TokenDecoder(decode)
    assert [decoder.push([token]) for token in ids] == ["", "", "漢"]


def test_bytes_that_never_become_a_character_are_replaced_at_the_end() -> None:
    decoder = TokenDecoder(decode)
    assert decoder.push(TOKENIZER.encode("漢").ids[:2]) == ""
    assert decoder.finish() == REPLACEMENT


@given(st.lists(st.sampled_from(TOKENIZER.encode("漢é🙂").ids), min_size=70, max_size=300), CUTS)
def test_bytes_that_are_no_text_for_long_are_passed_on_and_not_looked_at_again(
    ids: list[int], sizes: list[int]
) -> None:
    longest = 0

    def counted(some: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(some))
        return TOKENIZER.decode(some)

    text = TextStream(counted)
    pieces = [text.push(piece) for piece in split(ids, sizes)]
    assert "".join([*pieces, text.finish()]) == decode(ids)
    assert longest <= 4 * MAX_HELD


@given(st.text("ab|", max_size=30), st.lists(st.text("ab|", min_size=1, max_size=3), min_size=1, max_size=4), CUTS)
def test_a_stream_is_cut_where_the_first_stop_string_begins(text: str, stops: list[str], sizes: list[int]) -> None:
    filtered = StopStrings(stops)
    pieces = [filtered.push("".join(piece)) for piece in split(list(text), sizes)]  # type: ignore[arg-type]
    joined = "".join(pieces) + filtered.finish()
    assert text.startswith(joined)
    assert not any(stop in joined for stop in stops)
    assert filtered.found == any(stop in text for stop in stops)
    rest = text[len(joined) :]
    assert any(rest.startswith(stop) for stop in stops) if filtered.found else not rest


def test_a_stop_string_that_spans_pieces_is_found_and_never_shown() -> None:
    filtered = StopStrings(["END"])
    assert [filtered.push(piece) for piece in ("one E", "N", "D two")] == ["one ", "", ""]
    assert filtered.found
    assert filtered.finish() == ""


def test_the_beginning_of_a_stop_string_is_given_once_it_is_none() -> None:
    filtered = StopStrings(["END"])
    assert [filtered.push("E"), filtered.push("NX"), filtered.finish()] == ["", "ENX", ""]


def test_an_event_is_one_data_line() -> None:
    assert event('{"a":1}') == b'data: {"a":1}\n\n'
