import json
from pathlib import Path

import pytest

from validators import VALIDATORS, DataValidator


def test_the_json_has_the_shape_that_machines_read(validate, chat):
    report = validate(chat(), "{oops", *[chat()] * 18).report.to_json()

    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert {key: report[key] for key in ("valid", "schema", "level", "rows", "accepted", "rejected")} == {
        "valid": True,
        "schema": "chat_sft_v1",
        "level": "standard",
        "rows": 20,
        "accepted": 19,
        "rejected": 1,
    }
    (problem,) = report["problems"]
    assert (problem["rule"], problem["severity"], problem["count"], problem["share"]) == (
        "invalid_json",
        "reject_row",
        1,
        0.05,
    )
    (example,) = problem["examples"]
    assert example["line"] == 2
    assert "{oops" in example["seen"]
    assert report["validators"] == VALIDATORS
    assert report["stats"]["bytes"] == Path(report["path"]).stat().st_size


def test_only_the_first_examples_are_kept(validate, chat):
    (problem,) = [p for p in validate(*["{"] * 100, chat()).report.problems if p.rule == "invalid_json"]

    assert problem.count == 100
    assert [example.line for example in problem.examples] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("rows", "limits", "parts"),
    [
        (
            ["{oops", "{", "[]"],
            {"max_rejected_share": 0.1},
            ["rows.jsonl is refused: 3 of 4 rows rejected (75.0%), over the limit of 10.0%", "invalid_json 2"],
        ),
        (["{oops"], {}, ["rows.jsonl: 1 of 2 rows accepted as chat_sft_v1, 1 in quarantine (invalid_json 1; line 2:"]),
        ([], {}, ["rows.jsonl: 1 of 1 rows accepted as chat_sft_v1"]),
        (["", ""], {}, ["rows accepted as chat_sft_v1; 2 blank lines were skipped"]),
    ],
)
def test_the_headline_is_one_sentence_that_a_person_can_act_on(validate, chat, rows, limits, parts):
    headline = validate(chat(), *rows, **limits).report.headline()

    for part in parts:
        assert part in headline
    assert "\n" not in headline


def test_a_name_of_odd_characters_stays_one_printable_line(write, renderer, chat):
    path = write(chat(), name="a\nb\x1b[31m\u202e ü.jsonl")
    headline = DataValidator(renderer).validate_file(path).headline()

    assert headline.startswith("a\\nb\\x1b[31m\\u202e ü.jsonl: 1 of 1 rows")
