"""Pieces of evaluation items in rows, by brute force and by example."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validators.contamination import GRAM_WORDS, WINDOW_CHARS, EvaluationIndex, EvaluationItem
from validators.report import Rule
from validators.rows import Message

WORDS = [f"w{number}" for number in range(1000)]
ITEM = " ".join(WORDS[:40])
SHORT_WORDS = " ".join("abcdefghijklmnop")


def turns(*contents: str) -> list[Message]:
    return [Message(("user", "assistant")[at % 2], content) for at, content in enumerate(contents)]


def index(*texts: str, **arguments) -> EvaluationIndex:
    return EvaluationIndex.build([EvaluationItem(f"item-{at}", text) for at, text in enumerate(texts)], **arguments)


@pytest.mark.parametrize(
    ("item", "row"),
    [
        (ITEM, (ITEM, "x")),
        (ITEM, ("x", f"I say: {' '.join(WORDS[5:30])}!")),
        (ITEM, (f"before {', '.join(WORDS[3:3 + GRAM_WORDS]).upper()} after", "x")),
        (SHORT_WORDS, (f"z {' '.join('abcdefghijklm')} z", "x")),
        ("x" * 49 + "yz", ("-".join("x" * 49 + "y") + "!", "x")),
        ("這" * 30 + "是" * 30, ("。這" * 20 + "是" * 30, "x")),
        ("A question? It has an answer that one may well call long enough to be found.",
         ("A question?", "It has an answer that one may well call long enough to be found.")),
        ("2 + 2", ("2+2", "4")),
        ("What is 2 + 2?", ("what is 2+2", "4")),
        ("ﬁve cafe\u0301s", ("Five cafés?", "x")),
        ("2 + 2", ("2 + 2",)),
    ],
)  # fmt: skip
def test_a_row_with_a_piece_of_an_item_is_contaminated(item, row):
    finding = index("another item altogether", item).find(turns(*row))

    assert finding is not None and finding.rule is Rule.CONTAMINATION
    assert "'item-1'" in finding.detail and len(finding.detail) < 250


@pytest.mark.parametrize(
    ("item", "row"),
    [
        (SHORT_WORDS, (f"z {' '.join('abcdefghijkl')} z", "x")),
        ("x" * 49 + "yz", ("x" * 49 + "z", "x")),
        (SHORT_WORDS, ("abcdefghijklm", "x")),
        ("2 + 2", ("What is 2 + 2?", "4")),
        ("2 + 2", ("2 - 2", "0")),
        ("yes", ("Is it?", "yes")),
        ("?", ("?!", "x")),
        ("", ("x", "x")),
    ],
)
def test_its_nearest_neighbour_is_not(item, row):
    assert index(item).find(turns(*row)) is None


def test_pieces_of_many_items_are_boilerplate():
    preamble = "Read the question with care, think step by step, and then give the answer as a single number, please."
    items = [f"{preamble} {' '.join(WORDS[20 * at : 20 * at + 20])}" for at in range(3)]
    row = turns(f"{preamble} How many legs has a spider?", "8")

    assert index(*items[:2]).find(row) is not None
    assert index(*items).find(row) is None
    assert index(*items, boilerplate_items=4).find(row) is not None
    assert index(*items).find(turns(items[1], "8")) is not None


def test_an_item_of_boilerplate_alone_is_found_as_a_whole():
    items = [f"{ITEM} {number}" for number in "1234"]

    assert index(ITEM, *items).find(turns(ITEM, "x")) is not None
    assert index(ITEM, *items).find(turns(f"{ITEM} 5", "x")) is None


def test_the_same_item_many_times_is_not_boilerplate():
    assert index(*[ITEM] * 5).find(turns(f"{ITEM} more", "x")) is not None


def test_a_row_with_a_problem_key_is_decided_by_the_key_alone():
    items = EvaluationIndex.build([EvaluationItem("a", ITEM), EvaluationItem("b", "1 + 2 = ?", "add:1:2")])

    assert items.find(turns("other words", "3"), "add:1:2") is not None
    assert items.find(turns(ITEM, "3"), "add:2:1") is None
    assert items.find(turns("1 + 2 = ?", "3"), "add:2:1") is None
    assert items.find(turns("1 + 2 = ?", "3")) is not None


def test_an_empty_index_finds_nothing():
    assert index().find(turns(ITEM, ITEM)) is None
    assert index().find(turns(ITEM, ITEM), "key") is None


def test_pieces_are_found_wherever_they_stand_in_a_long_text():
    rng = random.Random(5)
    items = index(ITEM)
    for at in [0, 2**16 - 60, 2**16 - 2**11, 2**16, 2**17 + 12345, 2**18 - 1]:
        filler = "".join(rng.choices("abcdefgh ", k=2**18))
        assert items.find(turns("x", filler)) is None
        assert items.find(turns("x", f"{filler[:at]} {' '.join(WORDS[7:25])} {filler[at:]}")) is not None


def naive(item: str, row: str) -> bool:
    item_words, row_words = item.split(), row.split()
    size = len(row_words) - GRAM_WORDS + 1
    grams = {tuple(item_words[at : at + GRAM_WORDS]) for at in range(max(0, len(item_words) - GRAM_WORDS + 1))}
    if any(tuple(row_words[at : at + GRAM_WORDS]) in grams for at in range(max(0, size))):
        return True
    packed, inside = "".join(row_words), "".join(item_words)
    windows = (packed[at : at + WINDOW_CHARS] for at in range(max(0, len(packed) - WINDOW_CHARS + 1)))
    return any(window in inside for window in windows) or (packed == inside and bool(packed))


LETTERS = st.lists(st.text("ab", min_size=1, max_size=3), max_size=60).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(item=LETTERS, row=LETTERS, cut=st.tuples(st.integers(0, 100), st.integers(1, 150)))
def test_it_finds_what_brute_force_finds(item, row, cut):
    for text in (row, f"{row} {item[cut[0] : cut[0] + cut[1]]} {row[:20]}"):
        assert (index(item).find(turns(text)) is not None) is naive(item, text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_no_text_makes_it_raise(items, row):
    index(*items, *items[:1]).find(turns(*row))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["a", " ", "a ", "\u0301", "①", "é."])
def test_a_long_text_takes_linear_time(unit):
    text = unit * (2**20 // len(unit))
    index(ITEM, "a" * 45).find(turns(text, text))
    index(text).find(turns("x", text + ITEM))


BOILERPLATE = "Read the passage below with care, think about it step by step, and then give the one right answer:"


def test_the_end_of_boilerplate_and_the_letter_that_happens_to_follow_is_no_piece_of_an_item():
    items = index(
        *(f"{BOILERPLATE} {letter}{' '.join(WORDS[40 * at : 40 * at + 30])}" for at, letter in enumerate("abcdefg"))
    )

    for letter in "abcdefgh":
        assert items.find(turns(f"{BOILERPLATE} {letter} something else", "x")) is None
    assert items.find(turns(f"{BOILERPLATE} a{' '.join(WORDS[:12])}", "x")) is not None


def test_an_item_of_boilerplate_and_little_else_is_found_as_a_whole():
    items = index(*(f"{BOILERPLATE} {word}?" for word in ("red", "green", "blue", "white")))

    assert items.find(turns(f"{BOILERPLATE} Blue?", "x")) is not None
    assert items.find(turns(f"{BOILERPLATE} blues", "x")) is None
