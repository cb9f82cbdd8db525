"""From what was counted to a file's problems, each with a sentence."""

from collections.abc import Iterable, Iterator, Mapping

from validators.policy import Policy
from validators.report import Example, Finding, Problem, Rule, Severity, Tally, counts_text

SENTENCES: Mapping[Rule, str] = {
    Rule.CONFLICTING_ANSWER: "answer a prompt otherwise than an earlier row does",
    Rule.EXACT_DUPLICATE: "say the same as an earlier row",
    Rule.NEAR_DUPLICATE: "say nearly the same as an earlier row",
    Rule.ANSWER_LEAKAGE: "have an answer that their prompt states behind a label",
    Rule.CONTAMINATION: "hold a piece of an evaluation item",
    Rule.ANSWER_IN_PROMPT: "have an answer that stands in their prompt as it is",
    Rule.REPETITION: "have an answer that repeats itself",
    Rule.DEGENERATE: "have an answer that is no text",
    Rule.MOJIBAKE: "hold text that was decoded in the wrong encoding",
    Rule.BROKEN_JSON: "have an answer that looks like JSON and does not parse",
    Rule.BROKEN_CODE: "have an answer whose code does not parse",
    Rule.PROTOCOL_MIX: "have half of the thinking protocol, or marks of another chat format",
    Rule.PERSONAL_DATA: "hold what looks like personal data",
    Rule.SECRET: "hold what looks like a key or a password",
    Rule.PROMPT_ANSWER_RATIO: "have a prompt or an answer many times as long as the other",
}
"""What accepted rows with a finding do; the sentence begins with their number."""


def file_problems(
    tally: Tally,
    *,
    accepted: int,
    rejected: int,
    foreign: str | None,
    unknown_columns: str,
    about_file: Iterable[Finding],
    policy: Policy,
) -> tuple[Problem, ...]:
    """All problems of a file that was read to its end, those that refuse it first.

    `foreign` is the format of a file that is no text, `unknown_columns` the names to report, and
    `about_file` what the statistics show.
    """
    rows = accepted + rejected
    row_problems = [
        tally.problem(rule, rows, f"{count:,} of {rows:,} rows rejected by {rule}", Severity.REJECT_ROW)
        for rule in Rule
        if (count := tally.count(rule)) and policy.severity(rule) is Severity.REJECT_ROW
    ]
    problems = [
        *_whole_file(rows, rejected, foreign, tally.count(Rule.NOT_UTF8), policy, row_problems),
        *row_problems,
        *_repairs(tally, rows),
        *_unknown_columns(tally, accepted, unknown_columns, policy.severity(Rule.UNKNOWN_COLUMN)),
        *_accepted_with_findings(tally, accepted, policy),
        *_truncated(tally, accepted, policy),
        *(_about_file(finding, policy) for finding in about_file),
    ]
    order = list(Severity)
    return tuple(sorted(problems, key=lambda problem: order.index(problem.severity)))


def _whole_file(
    rows: int, rejected: int, foreign: str | None, not_utf8: int, policy: Policy, row_problems: list[Problem]
) -> Iterator[Problem]:
    """The first of the rules that refuse a whole file: the later ones would say the same again."""
    limit = policy.thresholds.max_rejected_share
    if rows == 0:
        yield _refusal(Rule.EMPTY_FILE, 0, 1.0, "no rows", "the file holds no rows; drop one with a JSON object a line")
    elif foreign is not None or 2 * not_utf8 > rows:
        seen = f"it looks like {foreign}" if foreign else f"{not_utf8:,} of {rows:,} lines are not UTF-8"
        message = f"the file is not UTF-8 text ({seen}); export it as UTF-8 JSON lines"
        yield _refusal(Rule.NOT_TEXT, rejected, rejected / rows, seen, message)
    elif rejected > limit * rows or rejected == rows:
        seen = f"{rejected:,} of {rows:,} rows rejected"
        message = (
            f"{seen} ({rejected / rows:.1%}), over the limit of {limit:.1%} "
            f"(validation.max_rejected_share): {counts_text(row_problems)}; correct the rows and drop the file again"
        )
        yield _refusal(Rule.TOO_MANY_REJECTED, rejected, rejected / rows, seen, message)


def _refusal(rule: Rule, count: int, share: float, seen: str, message: str) -> Problem:
    return Problem(rule, Severity.REJECT_FILE, count, share, message, (Example(None, seen),))


def _repairs(tally: Tally, rows: int) -> Iterator[Problem]:
    if tally.count(Rule.BYTE_ORDER_MARK):
        message = "the byte order mark at the beginning was dropped"
        yield tally.problem(Rule.BYTE_ORDER_MARK, rows, message, Severity.WARN)
    if blank := tally.count(Rule.BLANK_LINE):
        yield tally.problem(Rule.BLANK_LINE, rows, f"{blank:,} blank lines were skipped", Severity.WARN)


def _unknown_columns(tally: Tally, accepted: int, names: str, severity: Severity) -> Iterator[Problem]:
    if count := tally.count(Rule.UNKNOWN_COLUMN):
        message = f"columns that the schema does not know, in {count:,} of {accepted:,} accepted rows: {names}; "
        message += (
            "they were dropped"
            if severity is Severity.WARN
            else "remove them, or set validation.strict_columns to false"
        )
        yield tally.problem(Rule.UNKNOWN_COLUMN, accepted, message, severity)


def _accepted_with_findings(tally: Tally, accepted: int, policy: Policy) -> Iterator[Problem]:
    for rule, what in SENTENCES.items():
        count, severity = tally.count(rule), policy.severity(rule)
        if count and severity is not Severity.REJECT_ROW:
            message = f"{count:,} of {accepted:,} accepted rows {what} ({tally.examples[rule][0].seen})"
            yield tally.problem(rule, accepted, message, severity)


def _truncated(tally: Tally, accepted: int, policy: Policy) -> Iterator[Problem]:
    count, limit = tally.count(Rule.TRUNCATED), policy.thresholds.max_truncated_share
    if not count or policy.severity(Rule.TRUNCATED) is Severity.REJECT_ROW:
        return
    message = (
        f"{count:,} of {accepted:,} accepted rows are over max_length={policy.max_length:,} tokens and lose their end"
    )
    severity = policy.severity(Rule.TRUNCATED)
    if count > limit * accepted:
        severity = Severity.REJECT_FILE
        message += (
            f": {count / accepted:.1%}, over the limit of {limit:.1%} (validation.max_truncated_share); "
            "raise hyperparams.max_length or shorten the rows"
        )
    yield tally.problem(Rule.TRUNCATED, accepted, message, severity)


def _about_file(finding: Finding, policy: Policy) -> Problem:
    """A mix of rows rejects none of them, whatever the rule's severity for a single row."""
    severity = policy.severity(finding.rule)
    severity = Severity.WARN if severity is Severity.REJECT_ROW else severity
    return Problem(finding.rule, severity, 1, 1.0, finding.detail, (Example(None, finding.detail),))
