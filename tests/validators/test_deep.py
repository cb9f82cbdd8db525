"""Level DEEP as a whole: chat rows and plain texts, the order of what is found, and the history."""

import json
import random
from itertools import pairwise

import pytest

from benchmarks.rows import make_row, prose
from gpu_assets.settings import Validation
from validators import DATASET_SPECS, DataValidator, Level, Limits, Rule
from validators.contamination import EvaluationIndex, EvaluationItem
from validators.deep import BLIND_SPOT, DeepRules
from validators.duplicates import DuplicateFinder
from validators.history import RowHistory
from validators.lines import Line
from validators.rows import RowDecoder

CHAT, COMPLETION = DATASET_SPECS["chat_sft_v1"], DATASET_SPECS["completion_v1"]
ITEM = "A farmer keeps nine brown hens and two white geese behind the old wooden barn near our village well"
EVALUATION = EvaluationIndex.build([EvaluationItem("item-1", ITEM)])


@pytest.fixture
def validator(renderer):
    thresholds = Validation(max_rejected_share=1, max_truncated_share=1)
    return DataValidator(renderer, Limits(thresholds, 2048), evaluation=EVALUATION)


@pytest.fixture
def history(tmp_path):
    with RowHistory.open(tmp_path / "history.sqlite", read_only=False) as history:
        yield history


@pytest.fixture
def deep(renderer):
    """Checks rows of one schema and gives the rules found on each."""

    def deep(spec, *rows):
        finder = DuplicateFinder(RowHistory.empty(), "")
        rules = DeepRules(spec.kind, EVALUATION, finder, renderer.encode_batch)
        decoder = RowDecoder(spec)
        lines = [json.dumps(row).encode() for row in rows]
        decoded = [decoder.decode(Line(number, data, len(data))) for number, data in enumerate(lines, 1)]
        return [[finding.rule for finding in findings] for findings in rules.check(decoded)]

    return deep


def rules_of(report):
    return {problem.rule: problem.count for problem in report.problems}


def test_plain_texts_are_looked_at_as_one_answer(deep):
    text = prose(random.Random(1), 300)
    rows = [
        {"text": text},
        {"text": f"  {text.upper()}"},
        {"text": f"{text} And so on."},
        {"text": f"{ITEM}."},
        {"text": "It is very very very very very bad."},
        {"text": "Ein schÃ¶ner Tag."},
        {"text": '{"value": 42'},
        {"text": "```python\nfor x in range(3)\n```"},
        {"text": "🤔🤔 and no end."},
        {"text": "Write to anna.muster@mail.de."},
        {"text": "password = 'T7f9qXw2LzR4'"},
    ]

    assert deep(COMPLETION, *rows) == [
        [],
        [Rule.EXACT_DUPLICATE],
        [Rule.NEAR_DUPLICATE],
        [Rule.CONTAMINATION],
        [Rule.REPETITION],
        [Rule.MOJIBAKE],
        [Rule.BROKEN_JSON],
        [Rule.BROKEN_CODE],
        [Rule.PROTOCOL_MIX],
        [Rule.PERSONAL_DATA],
        [Rule.SECRET],
    ]


def test_plain_texts_never_conflict_and_leak_nothing(deep):
    generator = random.Random(2)
    assert deep(COMPLETION, *({"text": prose(generator, 200)} for _ in range(20))) == [[]] * 20


def test_everything_wrong_with_a_row_is_found_in_the_order_of_the_rules(deep, chat):
    answer = (
        f"{ITEM}. 🤔 very very very very very Noooooooooo schÃ¶n anna.muster@mail.de password = 'T7f9qXw2LzR4'\n"
        '```json\n{"a": \n```\n```python\nfor x in\n```'
    )
    rows = [chat("Well?", "One."), chat("Well?", answer), chat("WELL? ", f" {answer}")]
    first, second, third = deep(CHAT, *rows)

    assert first == []
    assert second == [
        Rule.CONTAMINATION,
        Rule.CONFLICTING_ANSWER,
        Rule.REPETITION,
        Rule.DEGENERATE,
        Rule.MOJIBAKE,
        Rule.BROKEN_JSON,
        Rule.BROKEN_CODE,
        Rule.PERSONAL_DATA,
        Rule.SECRET,
    ]
    assert third == [Rule.CONTAMINATION, Rule.EXACT_DUPLICATE, *second[1:]]
    order = list(Rule)
    assert all(order.index(one) < order.index(other) for one, other in pairwise(third))


def test_a_row_is_rejected_once_by_the_first_rule_that_it_breaks(validator, write, chat):
    rows = [chat("What is 6 * 7? Answer: 42", "42"), chat(f"{ITEM}? Answer: 42", "42"), chat(f"{ITEM}?", "42")]
    report = validator.validate_file(write(*rows), CHAT, "DEEP")

    assert report.rejected_by_rule() == {"answer_leakage": 2, "contamination": 1}


def test_a_row_is_no_duplicate_of_one_that_was_rejected(validate, chat):
    mangled, whole = "A long and schÃ¶n answer of quite a few words.", "A long and schön answer of quite a few words."
    rows = [
        chat("What is 6 * 7?\nAnswer: 42", "42"),
        chat("What is 6 * 7?\nanswer: 42", "No, 41"),
        chat("And?", mangled),
    ]
    rows += [chat("And?", whole), chat("And?", whole)]
    report = validate(*rows, level="DEEP", severities={"mojibake": "reject_row"}).report

    assert report.rejected_by_rule() == {"answer_leakage": 1, "mojibake": 1}
    assert {problem.rule: problem.examples[0].line for problem in report.warnings} == {Rule.EXACT_DUPLICATE: 5}


def test_each_level_finds_what_the_one_before_does(validator, write, chat):
    rows = [
        chat(),
        chat("What is <|im_end|>?", "3"),
        chat("a", " "),
        "{",
        "",
        chat("Go on.", prose(random.Random(1), 2100)),
        chat(),
        chat("b", "Ein schÃ¶ner Tag.", other=1),
    ]
    path = write(*rows)
    quick, standard, deep = (rules_of(validator.validate_file(path, CHAT, level)) for level in Level)

    assert quick == {
        Rule.INVALID_JSON: 1,
        Rule.EMPTY_CONTENT: 1,
        Rule.SPECIAL_TOKEN: 1,
        Rule.BLANK_LINE: 1,
        Rule.UNKNOWN_COLUMN: 1,
    }
    assert standard == quick | {Rule.PROMPT_ANSWER_RATIO: 1}
    assert deep == standard | {Rule.EXACT_DUPLICATE: 1, Rule.MOJIBAKE: 1}


def test_what_is_not_looked_for_is_said_at_level_deep_alone(validator, write, chat):
    path = write(chat())

    assert validator.validate_file(path, CHAT, "DEEP").stats["not_looked_for"] == BLIND_SPOT
    assert "not_looked_for" not in validator.validate_file(path, CHAT, "STANDARD").stats


@pytest.mark.parametrize("spec", [CHAT, COMPLETION], ids=lambda spec: spec.id)
def test_validated_again_a_file_finds_nothing_of_its_own_in_the_history(validator, history, write, spec):
    generator = random.Random(3)
    rows = [make_row(generator, 200) for _ in range(300)]
    if spec is COMPLETION:
        rows = [{"text": row["messages"][-1]["content"] + "\n" + prose(generator, 50)} for row in rows]
    path = write(*rows)

    def validate(own_key):
        finder = DuplicateFinder(history, own_key)
        return validator.validate_file(path, spec, "DEEP", duplicates=finder), finder

    first, finder = validate("mine")
    assert rules_of(first) == {}
    history.replace("mine", finder.entries(range(1, len(rows) + 1)))
    assert validate("mine")[0] == first
    assert rules_of(validate("another")[0]) == {Rule.EXACT_DUPLICATE: len(rows)}
    history.replace("another", finder.entries(range(1, 11)))
    assert rules_of(validate("mine")[0]) == {Rule.EXACT_DUPLICATE: 10}


def test_rows_in_one_batch_and_in_many_are_judged_alike(validator, write):
    """A file of several chunks: what repeats a row of an earlier chunk is found."""
    generator = random.Random(4)
    rows = [make_row(generator, 700) for _ in range(2_500)]
    path = write(*rows, *rows[:40])
    assert path.stat().st_size > 2 * 2**20

    assert rules_of(validator.validate_file(path, CHAT, "DEEP")).get(Rule.EXACT_DUPLICATE) == 40
