"""Every rule there is: a file that breaks it and no other, and its nearest neighbour, with no problem at all."""

import json
from dataclasses import replace

import pytest

from gpu_assets.settings import SkillBounds, Validation
from validators import DATASET_SPECS, DataValidator, Limits, Reserved, Rule
from validators.contamination import EvaluationIndex, EvaluationItem
from validators.duplicates import DuplicateFinder
from validators.history import RowHistory

ITEM = "A farmer keeps nine brown hens and two white geese behind the old wooden barn near our village well"
EVALUATION = EvaluationIndex.build(
    [EvaluationItem("item-1", ITEM), EvaluationItem("item-2", "Who painted it?"), EvaluationItem("k", "?", "syllo:7")]
)
RESERVED = Reserved(lambda key: key == "held", lambda text: text == "1 + 2", marks=("+",))
THRESHOLDS = Validation(
    max_truncated_share=1,
    max_row_bytes=2048,
    skills={"bounded": SkillBounds(min_tokens=5, max_tokens=100, tolerance=0.1, min_diversity=0.8)},
)
SENTENCE = "The lighthouse keeper counts passing ships every evening and writes their names into a blue book."
OTHER = "Nobody on our street had ever heard such a strange song before it was sung by two old fishermen."
WORDS = "amber birch cedar delta ember flint grove heron islet jetty knoll larch maple north otter pearl quill ridge"
PYTHON = "Here:\n```python\nfor x in range(3):\n    print(x)\n```"


def row(asked="What is seven times six?", answered="It is forty-two.", **columns):
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}], **columns}


def turns(*roles):
    return {
        "messages": [{"role": role, "content": f"This is {role} number {place}."} for place, role in enumerate(roles)]
    }


def many(count, broken, whole):
    """200 rows, so many of which are as the first function makes them, the others as the second does."""
    return [(broken if place < count else whole)(place) for place in range(200)]


def numbered(place, answer=None, **columns):
    """Rows that have little in common."""
    words = WORDS.split()
    one, two = words[place % 18], words[(place // 18 + 5) % 18]
    return row(f"{one} {place * 7919} {two} {place * 104729}?", answer or f"{two} {place * 15485863} {one}", **columns)


def thinking(place):
    return numbered(place, f"🤔🤔 {place * 15485863} {WORDS.split()[place % 18]} 🛑🛑")


def skilled(place, answer=None):
    return numbered(place, answer, metadata={"skill": "bounded"})


def long_skilled(place):
    return skilled(place, f"{place * 15485863} " + " ".join(str((place + 1) * prime) for prime in range(7907, 7931)))


LINE = json.dumps(row()).encode()
GOLDEN = {
    Rule.NOT_TEXT: ([b"PAR1"], [LINE.replace(b"seven", b"PAR1")]),
    Rule.EMPTY_FILE: ([], [row()]),
    Rule.BYTE_ORDER_MARK: ([b"\xef\xbb\xbf" + LINE], [LINE.replace(b"seven", b"\xef\xbb\xbfseven")]),
    Rule.BLANK_LINE: ([LINE, b"\t", b"\r"], [LINE + b"\t\r"]),
    Rule.ROW_TOO_LONG: ([LINE + b" " * (2049 - len(LINE))], [LINE + b" " * (2048 - len(LINE))]),
    Rule.NOT_UTF8: ([LINE.replace(b"seven", b"s\xe9pt")], [LINE.replace(b"seven", b"s\xc3\xa9pt")]),
    Rule.INVALID_JSON: ([LINE[:-1]], [LINE + b" "]),
    Rule.NOT_AN_OBJECT: ([b"[" + LINE + b"]"], [b" " + LINE]),
    Rule.MISSING_COLUMN: ([{"message": row()["messages"]}], [{"messages": row()["messages"]}]),
    Rule.WRONG_TYPE: ([row(answered=42)], [row(answered="42")]),
    Rule.DUPLICATE_KEY: (
        [LINE.replace(b'"content"', b'"role": "user", "content"', 1)],
        [row('"role", "role"', metadata={"role": {"role": 1}})],
    ),
    Rule.UNKNOWN_COLUMN: ([row(tag="a")], [row(tags="a")]),
    Rule.UNKNOWN_ROLE: ([turns("user", "Assistant")], [turns("user", "assistant")]),
    Rule.ROLE_ORDER: ([turns("user", "assistant", "user")], [turns("user", "assistant", "user", "assistant")]),
    Rule.EMPTY_CONTENT: ([row(answered=" \n\u3000")], [row(answered=" 0\n")]),
    Rule.CONTROL_CHARACTER: ([row("a\x0bb is what?")], [row("a\t\r\n\u00a0\u200b\u202eb is what?")]),
    Rule.SPECIAL_TOKEN: ([row("a <|im_end|> b is?")], [row("a < |im_end| > b is?")]),
    Rule.HELD_OUT: ([row("1 + 2", "3")], [row("2 + 1", "3")]),
    Rule.UNRENDERABLE: ([turns("system", "user", "assistant")], [turns("user", "assistant")]),
    Rule.UNSUPERVISED: (
        [row(f"{SENTENCE} {WORDS} {WORDS} {SENTENCE} {WORDS}?", "It is so.")],
        [row(f"{SENTENCE} {WORDS}?", "It is so.")],
    ),
    Rule.ANSWER_LEAKAGE: ([row("What is 6 * 7? Answer: 42", "42")], [row("What is 42 * 1? An answer, please", "42")]),
    Rule.CONTAMINATION: (
        [row(f"Well: {' '.join(ITEM.split()[2:15])}.")],
        [row(f"Well: {' '.join(ITEM.split()[2:10])}."), row("Who painted it? And when?", "No one knows.")],
    ),
    Rule.EXACT_DUPLICATE: ([row(), row("WHAT  is seven times six? ")], [row(), row("What is seven times sixty?")]),
    Rule.NEAR_DUPLICATE: (
        [row(f"{WORDS}.", SENTENCE), row(f"{WORDS}!", SENTENCE)],
        [row(f"{WORDS}.", SENTENCE), row(f"{WORDS}!", OTHER)],
    ),
    Rule.CONFLICTING_ANSWER: ([row(), row(answered="Forty-one!")], [row(), row("What is six times nine?")]),
    Rule.ANSWER_IN_PROMPT: (
        [row(f"How does a lighthouse keeper live?\n{SENTENCE}", SENTENCE)],
        [row(f"How does a lighthouse keeper live? {SENTENCE} {OTHER}", SENTENCE)],
    ),
    Rule.REPETITION: ([row(answered="It is very very very very very so.")], [row(answered="It is so, so, so, so.")]),
    Rule.DEGENERATE: ([row(answered="Noooooooooo!")], [row(answered="Nooooooooo!")]),
    Rule.MOJIBAKE: ([row(answered="Ein schÃ¶ner Tag.")], [row(answered="Ein schöner Tag, Ã.")]),
    Rule.BROKEN_JSON: ([row(answered='{"value": 42')], [row(answered='{"value": 42} is it.')]),
    Rule.BROKEN_CODE: ([row(answered=PYTHON.replace(":\n  ", "\n  "))], [row(answered=PYTHON)]),
    Rule.PROTOCOL_MIX: ([row(answered="🤔🤔 It is 42.")], [row(answered="🤔 It is 42.")]),
    Rule.PERSONAL_DATA: ([row(answered="Ask anna.muster@mail.de.")], [row(answered="Ask anna.muster@example.de.")]),
    Rule.SECRET: (
        [row(answered="password = 'T7f9qXw2LzR4'")],
        [row(answered="password = 'changeme123'")],
    ),
    Rule.PROMPT_ANSWER_RATIO: (
        [row(f"{SENTENCE} {SENTENCE[:-1]}, {WORDS}?", "It is so, yes")],
        [row(f"{SENTENCE} {SENTENCE[:-1]}, {WORDS}?", "It is so.")],
    ),
    Rule.TRUNCATED: ([row(answered=f"{SENTENCE} {WORDS} {SENTENCE} {WORDS}")], [row(answered=f"{SENTENCE} {WORDS}")]),
    Rule.ANSWER_DIVERSITY: (
        many(42, lambda place: skilled(place, "yes"), skilled),
        many(41, lambda place: skilled(place, "yes"), skilled),
    ),
    Rule.ANSWER_BALANCE: (
        many(101, lambda place: numbered(place, "yes"), numbered),
        many(100, lambda place: numbered(place, "yes"), numbered),
    ),
    Rule.LENGTH_BOUNDS: (many(21, long_skilled, skilled), many(20, long_skilled, skilled)),
    Rule.DRIFT: (many(200, numbered, numbered), many(90, numbered, numbered)[:99]),
    Rule.TOO_MANY_REJECTED: (many(21, lambda _: {}, numbered), many(20, lambda _: {}, numbered)),
}
ALONGSIDE = {Rule.TOO_MANY_REJECTED: {Rule.MISSING_COLUMN}, Rule.NOT_TEXT: {Rule.INVALID_JSON}}
"""What a file that breaks the rule breaks as well."""
PAST = [0] * 30 + [500] + [0] * 9
"""Lengths of a generator that made rows of over 32,000 tokens."""
STANDS_FOR_ITSELF = {Rule.NOT_TEXT, Rule.EMPTY_FILE, Rule.BYTE_ORDER_MARK}


@pytest.fixture
def find_rules(renderer, write):
    """The rules that rows break at level DEEP."""
    refusing = (
        "{% for message in messages if message.role == 'system' %}{{ raise_exception('no system turn') }}{% endfor %}"
    )
    renderer = replace(renderer, template=refusing + renderer.template)
    validator = DataValidator(renderer, Limits(THRESHOLDS, 256), RESERVED, EVALUATION)

    def find_rules(rows, **arguments):
        report = validator.validate_file(write(*rows), DATASET_SPECS["chat_sft_v1"], "DEEP", **arguments)
        assert report.accepted + report.rejected + report.blank_lines == report.lines
        return {problem.rule for problem in report.problems}

    return find_rules


def filled(rule, rows):
    return rows if rule in STANDS_FOR_ITSELF or len(rows) > 10 else [*rows, *map(numbered, range(300, 315))]


@pytest.mark.parametrize("rule", GOLDEN)
def test_a_file_breaks_the_rule_and_no_other(find_rules, rule):
    broken, _ = GOLDEN[rule]
    past = PAST if rule is Rule.DRIFT else None
    assert find_rules(filled(rule, broken), past=past) == {rule} | ALONGSIDE.get(rule, set())


@pytest.mark.parametrize("rule", GOLDEN)
def test_its_nearest_neighbour_has_no_problem(find_rules, rule):
    _, whole = GOLDEN[rule]
    past = PAST if rule is Rule.DRIFT else None
    assert find_rules(filled(rule, whole), past=past) <= ALONGSIDE.get(rule, set()) - {Rule.INVALID_JSON}


def test_every_rule_is_in_the_table():
    assert list(GOLDEN) == list(Rule)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("What is 2 + 2?", "4"),
        ("What is 4 - 11?", "-7"),
        ("①⓪ + ① = ?", "⓪①"),
        ("What is 4 * 1?", "4"),
        ("Is 7 prime? Answer with yes or no.", "yes"),
        ("What is the answer to 40 + 2?", "42"),
        ("Which of 3 and 5 is larger?", "5"),
        ("What is 1 / 3?", "0.3333333333333333"),
        ("1000000 * 10000 = ", "10000000000"),
        ("Give the next letter: a, b, c", "d"),
        ("10 - 10", "0"),
        ("2 ** 3", "8"),
        ("Is it true?", "No"),
        ("What comes after ⓪⓪①?", "⓪①⓪"),
        ("Answer:", "4"),
    ],
)
def test_short_answers_are_no_problem(find_rules, asked, answered):
    rows = [row(asked, answered), row(f"Again, please: {asked}", answered)]
    assert find_rules(filled(None, rows)) == set()


def test_a_row_that_was_accepted_before_is_a_duplicate_and_one_of_its_own_dataset_is_not(find_rules, tmp_path):
    with RowHistory.open(tmp_path / "history.sqlite", read_only=False) as history:
        finder = DuplicateFinder(history, "mine")
        assert find_rules([row()], duplicates=finder) == set()
        history.replace("mine", finder.entries([1]))

        assert find_rules([row()], duplicates=DuplicateFinder(history, "mine")) == set()
        assert find_rules([row()], duplicates=DuplicateFinder(history, "another")) == {Rule.EXACT_DUPLICATE}
        assert find_rules([row(answered="42")], duplicates=DuplicateFinder(history, "another")) == {
            Rule.CONFLICTING_ANSWER
        }
