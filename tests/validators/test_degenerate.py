"""Repetition, degenerate text and mojibake, and the arithmetic and languages that look like them."""

import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from validators.degenerate import RepetitionLimits, find_degenerate, find_mojibake, find_repetition
from validators.report import Rule
from validators.rows import Message

VARIED = " ".join(f"word{number} and" for number in range(40))
ARITHMETIC = [
    "4",
    "-7",
    "0",
    "⓪①",
    "①" * 20,
    "⓪①① = ①⓪",
    "1111111111",
    "10000000000",
    "0.3333333333",
    "B",
    "π",
    "=",
    ">=",
    "x",
]


def answer(text: str, prompt: str = "What is it?") -> list[Message]:
    return [Message("user", prompt), Message("assistant", text)]


def mangled(text: str, wrong: str = "cp1252") -> str:
    return text.encode().decode(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "It is very very very very very good.",
        "no, No, no, NO, no, no",
        "I do not know. I do not know. Sorry.",
        "The same line again\nThe same line again\n",
        "我不知道这个问题的答案。我不知道这个问题的答案。",
        "我们" * 12,
        f"好的，{'我不知道' * 5}。",
        "ขอบคุณ" * 6,
        f"{VARIED} {'so it is done ' * 10} end",
        "a" * 30 + "bcdefghijklmnopqrstuvwxyz" + "a" * 20,
    ],
)
def test_repetition_is_found(text):
    assert find_repetition(answer(text)).rule is Rule.REPETITION


@pytest.mark.parametrize(
    "text",
    [
        *ARITHMETIC,
        "It is very very very very good.",
        "1 1 1 1 1 1 1 and 0 0 0 0 0 0",
        "X X X X X\nX O X O X",
        "我不知道" * 4,
        "ドキドキドキドキドキ",
        "哈" * 9 + "，真好",
        "一〇" * 20,
        "I do not know. Nor do I know. I do not know.",
        "No. No. Not so.",
        "| --- | --- |\n| --- | --- |",
        f"{VARIED} {'so it is done ' * 3} end",
        "3x + 2x = 5x; 5x - x = 4x; 4x / 2 = 2x; 2x + 9x = 11x; 11x + 1x = 12x",
        "a" * 20 + "bcdefghijklmnopqrstuvwxyz" + "bcdefghij",
        "a" * 45,
        "```\nprint('the same')\nprint('the same')\n```",
        VARIED,
    ],
)
def test_what_looks_like_repetition_passes(text):
    assert find_repetition(answer(text)) is None


def test_only_answers_are_held_to_repetition():
    assert find_repetition(answer("Five times.", "Say very very very very very often")) is None


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("Repeat 'yes' 6 times", "yes yes yes yes yes yes"),
        ("Write no ten times.", "no " * 10),
        ("Schreibe zehn mal Hallo.", "Hallo " * 10),
        ("重复五次“我不知道”。", "我不知道" * 5),
    ],
)
def test_what_repeats_itself_as_asked_passes(asked, answered):
    assert find_repetition(answer(answered, asked)) is None
    assert find_repetition(answer(answered, "What is it? Do not repeat yourself.")) is not None


def test_bytes_in_hexadecimal_may_repeat():
    dump = "00000000  00 00 00 00 00 00 00 00  ff ff ff ff ff ff ff ff"
    for text in (dump, f"{dump}  |........ff......|", f"It is:\n{dump}\n{dump}\nThat is all.", f"{dump}\n" * 9):
        assert find_repetition(answer(text)) is None
    assert find_repetition(answer(f"{dump}\nff ff ff ff ff ff")) is not None
    assert find_repetition(answer(f"{dump}\nIt is so so so so so.")) is not None


def test_limits_of_repetition_are_those_given():
    text = f"{VARIED} {'so it is done ' * 3} end"
    assert find_repetition(answer(text), RepetitionLimits(ngram_share=0.1)) is not None


@pytest.mark.parametrize(
    "text",
    [
        "...",
        "?!?!",
        "- - -",
        "***",
        "aaaaaaaaaa",
        "so goooooooooood",
        "!!!!!!!!!!",
        "no" + "😀" * 10,
        "1" * 20 + "z" * 10,
    ],
)
def test_degenerate_answers_are_found(text):
    assert find_degenerate(answer(text)).rule is Rule.DEGENERATE


@pytest.mark.parametrize(
    "text",
    [
        *ARITHMETIC,
        "?",
        "**",
        "[]",
        "{}",
        "👍",
        "✓",
        "!=",
        "aaaaaaaaa",
        "🤔" * 8 + "\nIt is.",
        "Title\n----------\n==========\n..........\n__________",
        "| a | b |\n|----------|----------|",
        "def f():\n                return 1",
        "██████████░░░░░░░░░░ 50 %",
        "#include <a>\n////////////////",
    ],
)
def test_what_looks_degenerate_passes(text):
    assert find_degenerate(answer(text)) is None


def test_punctuation_may_answer_punctuation():
    assert find_degenerate(answer("...", "???")) is None


@pytest.mark.parametrize(
    "text",
    [
        mangled("café"),
        mangled("São Paulo é"),
        mangled("it’s"),
        mangled("a – b"),
        mangled("😀 hi"),
        mangled("10 °C", "latin-1"),
        mangled("привет как дела", "cp1251"),
        "lost \ufffd bytes",
    ],
)
def test_mojibake_is_found_in_every_turn(text):
    assert find_mojibake(answer(text)).rule is Rule.MOJIBAKE
    assert find_mojibake(answer("ok", text)).detail.startswith("turn 1")


@pytest.mark.parametrize(
    "text",
    [
        *ARITHMETIC,
        "CAMARÃO, MAÇÃ, NÃO, Ã",
        "LIBERTÉ\u00a0! « été »",
        "“quotes” – dash… ‘x’ — it’s",
        "Größe, ÄÖÜ, 25 °C, ±2 µm, 5 €, £5",
        "Привет, мир: «РСФСР»",
        "数据 日本語 한국어 العربية עברית Ελληνικά",
        "Đây là tiếng Việt",
        "İstanbul, Łódź, žluťoučký kůň",
        "½ × ¾, x² ≤ y³, √2",
        "🤔🤔 ⏹️ 🛡️",
    ],
)
def test_text_in_real_languages_is_no_mojibake(text):
    assert find_mojibake(answer(text)) is None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant", "system"]),
            st.text()
            | st.lists(st.sampled_from(["a", "word ", "\n", ". ", "aaaaaaaaaa", "Ã©", "```", "①"])).map("".join),
        )
    )
)
def test_no_text_makes_a_rule_raise(turns):
    messages = [Message(role, content) for role, content in turns]
    for find in (find_repetition, find_degenerate, find_mojibake):
        find(messages)


@settings(max_examples=500, deadline=None)
@given(st.text(sorted({*"".join(MOJIBAKE_CATEGORIES.values()), *"aA œ°²×√вЂГўВβΒā€à"}), max_size=6))
def test_the_cheap_look_hides_no_mojibake(text):
    assert (find_mojibake(answer("ok", text)) is not None) is (is_bad(text) or "\ufffd" in text)


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789⓪①+-*/= .", max_size=80).filter(lambda text: any(map(str.isnumeric, text))))
def test_arithmetic_is_never_degenerate(text):
    for find in (find_repetition, find_degenerate, find_mojibake):
        assert find(answer(text)) is None


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "unit", ["a", " ", "ab ", "ab,", "ab ab ab ab cd ", ".", ". ", "\n ", "Ã", "é ", "€", "-", "``` "]
)
def test_a_long_text_takes_linear_time(unit):
    text = unit * (2**20 // len(unit))
    for find in (find_repetition, find_degenerate, find_mojibake):
        find(answer(text))
        find(answer(f"{text}x"))


def test_letters_that_stand_for_others_may_repeat():
    key = [Message("user", "Show me a key."), Message("assistant", "Use sk-" + "x" * 60 + " or XXXXXXXXXXXXXXXX.")]

    assert find_degenerate(key) is None
    assert find_repetition(key) is None


@pytest.mark.parametrize("answer", ["……", "…!", "......"])
def test_an_ellipsis_counts_as_three_marks(answer):
    assert find_degenerate([Message("user", "Why?"), Message("assistant", answer)]) is not None
    assert find_degenerate([Message("user", "Why?"), Message("assistant", "?!")]) is None
