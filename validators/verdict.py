"""From what was counted to a file's problems, each with a sentence."""

from collections.abc import Iterator

from gpu_assets.settings import Validation
from validators.report import SEVERITIES, Example, Problem, Rule, Severity, Tally, counts_text


def file_problems(
    tally: Tally,
    *,
    accepted: int,
    rejected: int,
    foreign: str | None,
    unknown_columns: str,
    limits: Validation,
    max_length: int,
) -> tuple[Problem, ...]:
    """All problems of a file that was read to its end, those that refuse it first.

    `foreign` is the format of a file that is no text, `unknown_columns` the names to report.
    """
    rows = accepted + rejected
    row_problems = [
        tally.problem(rule, rows, f"{count:,} of {rows:,} rows rejected by {rule}")
        for rule in Rule
        if (count := tally.count(rule)) and SEVERITIES[rule] is Severity.REJECT_ROW
    ]
    problems = [
        *_whole_file(rows, rejected, foreign, tally.count(Rule.NOT_UTF8), limits, row_problems),
        *row_problems,
        *_warnings(tally, rows),
    ]
    if tally.count(Rule.UNKNOWN_COLUMN):
        problems.append(_unknown_columns(tally, accepted, unknown_columns, limits.strict_columns))
    if tally.count(Rule.TRUNCATED):
        problems.append(_truncated(tally, accepted, limits.max_truncated_share, max_length))
    order = list(Severity)
    return tuple(sorted(problems, key=lambda problem: order.index(problem.severity)))


def _whole_file(
    rows: int, rejected: int, foreign: str | None, not_utf8: int, limits: Validation, row_problems: list[Problem]
) -> Iterator[Problem]:
    """The first of the rules that refuse a whole file: the later ones would say the same again."""
    if rows == 0:
        yield _refusal(Rule.EMPTY_FILE, 0, 1.0, "no rows", "the file holds no rows; drop one with a JSON object a line")
    elif foreign is not None or 2 * not_utf8 > rows:
        seen = f"it looks like {foreign}" if foreign else f"{not_utf8:,} of {rows:,} lines are not UTF-8"
        message = f"the file is not UTF-8 text ({seen}); export it as UTF-8 JSON lines"
        yield _refusal(Rule.NOT_TEXT, rejected, rejected / rows, seen, message)
    elif rejected > limits.max_rejected_share * rows or rejected == rows:
        seen = f"{rejected:,} of {rows:,} rows rejected"
        message = (
            f"{seen} ({rejected / rows:.1%}), over the limit of {limits.max_rejected_share:.1%} "
            f"(validation.max_rejected_share): {counts_text(row_problems)}; correct the rows and drop the file again"
        )
        yield _refusal(Rule.TOO_MANY_REJECTED, rejected, rejected / rows, seen, message)


def _refusal(rule: Rule, count: int, share: float, seen: str, message: str) -> Problem:
    return Problem(rule, Severity.REJECT_FILE, count, share, message, (Example(None, seen),))


def _warnings(tally: Tally, rows: int) -> Iterator[Problem]:
    if tally.count(Rule.BYTE_ORDER_MARK):
        yield tally.problem(Rule.BYTE_ORDER_MARK, rows, "the byte order mark at the beginning was dropped")
    if blank := tally.count(Rule.BLANK_LINE):
        yield tally.problem(Rule.BLANK_LINE, rows, f"{blank:,} blank lines were skipped")


def _unknown_columns(tally: Tally, accepted: int, names: str, strict: bool) -> Problem:
    count = tally.count(Rule.UNKNOWN_COLUMN)
    message = f"columns that the schema does not know, in {count:,} of {accepted:,} accepted rows: {names}; "
    if not strict:
        return tally.problem(Rule.UNKNOWN_COLUMN, accepted, f"{message}they were dropped")
    message += "remove them, or set validation.strict_columns to false"
    return tally.problem(Rule.UNKNOWN_COLUMN, accepted, message, Severity.REJECT_FILE)


def _truncated(tally: Tally, accepted: int, limit: float, max_length: int) -> Problem:
    count = tally.count(Rule.TRUNCATED)
    message = f"{count:,} of {accepted:,} accepted rows are over max_length={max_length:,} tokens and lose their end"
    if count <= limit * accepted:
        return tally.problem(Rule.TRUNCATED, accepted, message)
    message += (
        f": {count / accepted:.1%}, over the limit of {limit:.1%} (validation.max_truncated_share); "
        "raise hyperparams.max_length or shorten the rows"
    )
    return tally.problem(Rule.TRUNCATED, accepted, message, Severity.REJECT_FILE)
