"""What a file is held to: the severity of each rule, and the level, by schema and by generator."""

import pytest

from gpu_assets.errors import SettingsError
from gpu_assets.settings import GeneratorPolicy, SkillBounds, SpecPolicy, Validation
from validators import DATASET_SPECS, DataValidator, Level, Limits, Rule, Severity
from validators.policy import FILE_RULES, check_policies, choose_policy
from validators.report import ADJUSTABLE, SEVERITIES
from validators.verdict import SENTENCES

CHAT = DATASET_SPECS["chat_sft_v1"]
REPEATING = Validation(
    level="deep",
    max_rejected_share=1,
    generators={"curriculum": GeneratorPolicy(severities={"exact_duplicate": "reject_row"})},
)


def choose(thresholds, schema="chat_sft_v1", generator=None, level=None):
    return choose_policy(thresholds, 512, schema, generator, level)


def test_without_settings_every_rule_has_the_severity_that_is_shipped():
    policy = choose(Validation())

    assert dict(policy.severities) == SEVERITIES
    assert set(SEVERITIES) == set(Rule)
    assert (policy.level, policy.max_length) == (Level.DEEP, 512)


@pytest.mark.parametrize(
    ("schema", "generator", "asked", "level"),
    [
        ("chat_sft_v1", None, None, "standard"),
        ("syllo_v1", None, None, "quick"),
        ("chat_sft_v1", "manual", None, "deep"),
        ("syllo_v1", "manual", None, "deep"),
        ("syllo_v1", "binary_api", None, "quick"),
        ("syllo_v1", "manual", "standard", "standard"),
        ("completion_v1", "unheard_of", None, "standard"),
    ],
)
def test_the_level_asked_for_goes_before_the_generators_that_before_the_schemas(schema, generator, asked, level):
    thresholds = Validation(
        level="standard",
        specs={"syllo_v1": SpecPolicy(level="quick")},
        generators={"manual": GeneratorPolicy(level="deep"), "binary_api": GeneratorPolicy()},
    )

    assert choose(thresholds, schema, generator, asked and Level(asked)).level == level


def test_the_validator_takes_the_level_from_the_settings_where_none_is_asked_for(renderer, write, chat):
    thresholds = Validation(level="quick", generators={"manual": GeneratorPolicy(level="standard")})
    validator = DataValidator(renderer, Limits(thresholds))
    path = write(chat())

    assert validator.validate_file(path, CHAT, None).level == "quick"
    assert validator.validate_file(path, CHAT, None, generator_id="manual").level == "standard"
    assert validator.validate_file(path, CHAT, "DEEP", generator_id="manual").level == "deep"


def test_a_severity_of_a_generator_goes_before_that_of_all():
    thresholds = Validation(
        severities={"secret": "reject_row", "mojibake": "reject_file"},
        generators={"manual": GeneratorPolicy(severities={"secret": "warn"})},
    )

    assert choose(thresholds).severity(Rule.SECRET) is Severity.REJECT_ROW
    assert choose(thresholds, generator="manual").severity(Rule.SECRET) is Severity.WARN
    assert choose(thresholds, generator="manual").severity(Rule.MOJIBAKE) is Severity.REJECT_FILE


def test_a_duplicate_is_a_warning_for_one_generator_and_a_rejection_for_another(renderer, write, chat):
    validator = DataValidator(renderer, Limits(REPEATING))
    path = write(chat(), chat("What is 2 + 2?", "4"), chat())

    warned = validator.validate_file(path, CHAT, None, generator_id="manual")
    assert (warned.accepted, warned.rejected) == (3, 0)
    assert [(problem.rule, problem.severity, problem.count) for problem in warned.problems] == [
        (Rule.EXACT_DUPLICATE, Severity.WARN, 1)
    ]
    rejected = validator.validate_file(path, CHAT, None, generator_id="curriculum")
    assert (rejected.accepted, rejected.rejected_by_rule()) == (2, {"exact_duplicate": 1})


def test_a_finding_on_a_row_can_refuse_the_file(renderer, write, chat):
    validator = DataValidator(renderer, Limits(Validation(severities={"mojibake": "reject_file"})))
    report = validator.validate_file(write(chat(), chat("Wie ist der Tag?", "schÃ¶n")), CHAT, "DEEP")

    assert not report.valid
    assert (report.accepted, report.rejected) == (2, 0)
    assert "mojibake" in {problem.rule for problem in report.blocking}


@pytest.mark.parametrize("where", ["severities", "generators"])
@pytest.mark.parametrize("rule", ["exact_duplicates", "INVALID_JSON", "invalid_json", "too_many_rejected", ""])
def test_a_rule_that_is_unknown_or_fixed_is_refused_by_name(renderer, where, rule):
    named = {rule: "warn"}
    thresholds = Validation(
        **({"severities": named} if where == "severities" else {"generators": {"manual": {"severities": named}}})
    )
    with pytest.raises(SettingsError) as refusal:
        DataValidator(renderer, Limits(thresholds))

    place = "validation.severities" if where == "severities" else "validation.generators.manual.severities"
    assert f"{place} names {rule}" in str(refusal.value)
    assert str(refusal.value).endswith(": " + ", ".join(sorted(ADJUSTABLE)))


@pytest.mark.parametrize("rule", sorted(FILE_RULES))
def test_a_rule_of_a_whole_file_cannot_reject_a_row(rule):
    with pytest.raises(SettingsError, match=f"{rule} is about a whole file"):
        check_policies(Validation(severities={rule.value: "reject_row"}))
    check_policies(Validation(severities={rule.value: "reject_file"}))


def test_a_column_that_is_dropped_cannot_reject_a_row():
    with pytest.raises(SettingsError, match="unknown_column is about columns that are dropped"):
        check_policies(Validation(severities={"unknown_column": "reject_row"}))


def test_rows_of_two_protocols_reject_none_of_the_others(renderer, write, chat):
    thresholds = Validation(max_rejected_share=1, severities={"protocol_mix": "reject_row"})
    answers = [f"🤔🤔 It is {place * 7919}. 🛑🛑" if place % 2 else f"{place * 7907}!" for place in range(30)]
    rows = [chat(f"What is {place * 104729} to {place * 15485863}?", answer) for place, answer in enumerate(answers)]
    path = write(*rows, chat("Well?", "🤔🤔 and no end"))
    report = DataValidator(renderer, Limits(thresholds)).validate_file(path, CHAT, "DEEP")

    assert report.rejected_by_rule() == {"protocol_mix": 1}
    assert (report.accepted, report.rejected) == (30, 1)
    assert [problem.rule for problem in report.warnings] == [Rule.PROTOCOL_MIX]


@pytest.mark.parametrize("rule", sorted(ADJUSTABLE - FILE_RULES - {Rule.UNKNOWN_COLUMN}))
def test_every_other_adjustable_rule_takes_every_severity(rule):
    for severity in Severity:
        thresholds = Validation(severities={rule.value: severity.value})
        assert choose(thresholds).severity(rule) is severity


def test_strict_columns_refuse_a_file_and_a_severity_of_the_rule_goes_before_them():
    assert choose(Validation(strict_columns=True)).severity(Rule.UNKNOWN_COLUMN) is Severity.REJECT_FILE
    thresholds = Validation(strict_columns=True, severities={"unknown_column": "warn"})
    assert choose(thresholds).severity(Rule.UNKNOWN_COLUMN) is Severity.WARN


def test_bounds_of_a_skill_come_from_the_settings():
    assert choose(Validation()).thresholds.skills["syllo"] == SkillBounds(
        min_tokens=20, max_tokens=2048, tolerance=0.10, min_diversity=0.80
    )


def test_every_rule_that_may_warn_has_a_sentence():
    elsewhere = FILE_RULES | {Rule.UNKNOWN_COLUMN, Rule.TRUNCATED}
    assert set(SENTENCES) == ADJUSTABLE - elsewhere


@pytest.mark.parametrize(("severity", "valid"), [("warn", True), ("reject_file", False)])
def test_a_leak_that_rejects_no_row_is_still_reported(validate, chat, severity, valid):
    report = validate(chat("Six? Answer: 6", "6"), level="DEEP", severities={"answer_leakage": severity}).report

    assert [(problem.rule, problem.severity) for problem in report.problems] == [(Rule.ANSWER_LEAKAGE, severity)]
    assert (report.valid, report.accepted) == (valid, 1)
