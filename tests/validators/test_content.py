import json

import pytest

from gpu_assets.base_model.tiny import build_tokenizer
from gpu_assets.errors import DatasetInvalid
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Hyperparams, Validation
from serving.skills.binary import is_held_out, problems, question, training_row, worked_answer
from validators import DATASET_SPECS, DataValidator, Level, Limits, Reserved, Rule, SpecValidator


def problem_of(validated, rule):
    return next(problem for problem in validated.report.problems if problem.rule is rule)


def test_good_rows_go_on_and_bad_ones_are_named_by_line(validate, chat):
    validated = validate(chat("a", "b"), "{oops", chat("c", "d"), chat("e"), chat("f", "g"))

    assert validated.accepted["line"].to_list() == [1, 3, 5]
    assert [(row.line, row.reason) for row in validated.rejected] == [(2, "invalid_json"), (4, "role_order")]
    report = validated.report
    assert (report.lines, report.rows, report.accepted, report.rejected) == (5, 5, 3, 2)
    assert report.valid


def test_rejected_rows_are_in_the_order_of_their_lines_whichever_rule_found_them(validate, chat):
    validated = validate(chat("long " * 100, "b"), "{oops", chat("long " * 100, "b"), "{", max_length=64)

    assert [row.line for row in validated.rejected] == [1, 2, 3, 4]


def test_blank_lines_are_no_rows_and_are_reported(validate, chat):
    report = validate(chat(), "", "  \t\r", chat(), b"").report

    assert (report.lines, report.blank_lines, report.rows, report.accepted) == (5, 3, 2, 2)
    assert report.valid
    (problem,) = report.problems
    assert (problem.rule, problem.severity, problem.count) == (Rule.BLANK_LINE, "warn", 3)
    assert [example.line for example in problem.examples] == [2, 3, 5]


def test_a_byte_order_mark_at_the_beginning_is_dropped_and_reported(validate, chat):
    row = json.dumps(chat()).encode()
    at_start = validate(b"\xef\xbb\xbf" + row, row)
    later = validate(row, b"\xef\xbb\xbf" + row)

    assert at_start.report.accepted == 2
    assert [problem.rule for problem in at_start.report.problems] == [Rule.BYTE_ORDER_MARK]
    assert [row.reason for row in later.rejected] == [Rule.INVALID_JSON]


def test_a_file_with_too_many_rejected_rows_is_refused(validate, chat):
    rows = [chat()] * 9
    at_limit = validate(*rows, "{oops", max_rejected_share=0.10)
    over = validate(*rows, "{oops", "{", max_rejected_share=0.10)

    assert at_limit.report.valid
    assert not over.report.valid
    assert over.report.accepted == 9
    problem = problem_of(over, Rule.TOO_MANY_REJECTED)
    assert (problem.severity, problem.count, round(problem.share, 3)) == ("reject_file", 2, 0.182)


def test_a_file_without_an_accepted_row_is_refused_whatever_the_limit(validate):
    assert not validate("{oops", max_rejected_share=1.0).report.valid


@pytest.mark.parametrize("rows", [(), (b"",), (b"", b" ")])
def test_an_empty_file_is_refused(validate, rows):
    report = validate(*rows).report

    assert not report.valid
    assert Rule.EMPTY_FILE in [problem.rule for problem in report.problems]
    assert "holds no rows" in report.headline()


def test_truncated_rows_are_a_warning_up_to_the_limit(validate, chat):
    short, long = chat("a", "b"), chat("a", "long " * 50)
    at_limit = validate(*[short] * 3, long, max_length=64, max_truncated_share=0.25)
    over = validate(*[short] * 3, long, long, max_length=64, max_truncated_share=0.25)

    assert at_limit.report.valid
    assert problem_of(at_limit, Rule.TRUNCATED).severity == "warn"
    assert at_limit.accepted["truncated"].to_list() == [False, False, False, True]
    assert not over.report.valid
    assert problem_of(over, Rule.TRUNCATED).share == 0.4
    assert "raise hyperparams.max_length" in over.report.headline()


def test_unknown_columns_are_dropped_with_a_warning_that_lists_them(validate, chat):
    rows = [chat(score=1), chat(), {**chat(), "id": "x"}]
    dropped = validate(*rows)
    refused = validate(*rows, strict_columns=True)

    assert dropped.report.valid
    assert dropped.report.accepted == 3
    problem = problem_of(dropped, Rule.UNKNOWN_COLUMN)
    assert (problem.count, problem.severity) == (2, "warn")
    assert "id, score" in problem.message
    assert not refused.report.valid
    assert problem_of(refused, Rule.UNKNOWN_COLUMN).severity == "reject_file"


def test_other_columns_in_every_row_stay_a_bounded_report(validate, chat):
    validated = validate(*[{**chat(), f"column {n} " + "x" * 500: n} for n in range(500)])

    assert validated.report.accepted == 500
    assert len(json.dumps(validated.report.to_json())) < 20_000


def test_all_problems_are_collected_and_none_stops_the_read(validate, chat):
    rows = ["{oops", chat("a", "<|im_end|>"), "", chat(extra=1), chat("a", "long " * 50), [], b"\xff", chat()]
    validated = validate(*rows, max_length=64, max_truncated_share=0.0)

    assert {problem.rule for problem in validated.report.problems} == {
        Rule.INVALID_JSON,
        Rule.SPECIAL_TOKEN,
        Rule.BLANK_LINE,
        Rule.UNKNOWN_COLUMN,
        Rule.TRUNCATED,
        Rule.NOT_AN_OBJECT,
        Rule.NOT_UTF8,
    }
    assert validated.accepted["line"].to_list() == [4, 5, 8]
    severities = [problem.severity for problem in validated.report.problems]
    assert severities == sorted(severities, key=["reject_file", "reject_row", "warn"].index)


def test_the_counts_of_rejecting_rules_add_up_to_the_rejected_rows(validate, chat):
    bad = chat("a<|im_end|>", "\x00", problem=1)
    report = validate(bad, "{", chat("a"), b"\xff", bad).report

    assert sum(report.rejected_by_rule().values()) == report.rejected == 5


def test_quick_counts_no_tokens_and_needs_no_renderer(write, chat):
    path = write(chat(), chat("a", "<|im_end|>"), *[chat()] * 20)
    validated = DataValidator(build_tokenizer()).validate_rows(path, DATASET_SPECS["chat_sft_v1"], level="QUICK")

    assert validated.report.level is Level.QUICK
    assert [row.reason for row in validated.rejected] == [Rule.SPECIAL_TOKEN]
    assert validated.accepted["num_tokens"].null_count() == validated.accepted.height == 21
    assert set(validated.report.stats) == {"bytes"}


def test_standard_without_a_renderer_and_unknown_levels_are_refused(write, chat, renderer):
    path = write(chat())
    with pytest.raises(DatasetInvalid, match="needs a Renderer"):
        DataValidator(build_tokenizer()).validate_file(path)
    with pytest.raises(DatasetInvalid, match="'DEEPER' is unknown; known levels: quick, standard, deep"):
        DataValidator(renderer).validate_file(path, level="DEEPER")


def test_without_a_schema_the_columns_decide(write, chat, renderer):
    validator = DataValidator(renderer)

    assert validator.validate_file(write(chat())).schema == "chat_sft_v1"
    assert validator.validate_file(write({"text": "a"})).schema == "completion_v1"
    with pytest.raises(DatasetInvalid, match="neither messages nor text"):
        validator.validate_file(write({"prompt": "a"}))


def test_generated_rows_pass_and_held_out_problems_do_not(write, renderer):
    all_problems = list(problems(1))
    rows = [training_row(problem, 0, 1) for problem in all_problems if not problem.held_out]
    leaked = [
        {
            "messages": [
                {"role": "user", "content": question(problem)},
                {"role": "assistant", "content": worked_answer(problem)},
            ],
            "metadata": {"problem_key": problem.key},
        }
        for problem in all_problems
        if problem.held_out
    ]
    path = write(*rows, *leaked)
    spec = SpecValidator().choose(None, frozenset({"messages", "metadata"})).spec
    reserved = Reserved(is_held_out, lambda _: False, marks=())
    validated = DataValidator(renderer, reserved=reserved).validate_rows(path, spec)

    assert validated.report.accepted == len(rows)
    assert validated.report.rejected_by_rule() == {"held_out": len(leaked)}
    assert leaked


def test_the_default_limits_are_the_settings_defaults():
    assert Limits() == Limits(Validation(), Hyperparams().max_length)


def test_a_template_that_refuses_a_conversation_rejects_the_row(write, chat, renderer):
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + renderer.template
    )
    strict = Renderer(renderer.tokenizer, template, renderer.profile, renderer.end_token)
    validated = DataValidator(strict).validate_rows(
        write(chat(system_prompt="a"), *[chat()] * 10), DATASET_SPECS["chat_sft_v1"]
    )

    (rejected,) = validated.rejected
    assert rejected.reason is Rule.UNRENDERABLE
    assert "no system turn" in rejected.detail
