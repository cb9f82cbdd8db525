"""What validation found: rules, problems and the report, for people and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from validators.quoting import printable

EXAMPLES = 5
"""Examples kept of each problem."""


class Severity(StrEnum):
    """What a problem costs: the file, the row, or nothing."""

    REJECT_FILE = "reject_file"
    REJECT_ROW = "reject_row"
    WARN = "warn"


class Level(StrEnum):
    """How deep the content gate looks; each level does all that the one before does."""

    QUICK = "quick"
    STANDARD = "standard"
    DEEP = "deep"

    def includes(self, other: "Level") -> bool:
        """Whether this level does what the other does."""
        order = list(Level)
        return order.index(self) >= order.index(other)


class Rule(StrEnum):
    """Every rule, in the order in which a row meets them.

    A row is rejected once, by the first rule that it breaks, so the counts of the rows' rules add
    up to the rejected rows.
    """

    NOT_TEXT = "not_text"
    EMPTY_FILE = "empty_file"
    BYTE_ORDER_MARK = "byte_order_mark"
    BLANK_LINE = "blank_line"
    ROW_TOO_LONG = "row_too_long"
    NOT_UTF8 = "not_utf8"
    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_COLUMN = "missing_column"
    WRONG_TYPE = "wrong_type"
    DUPLICATE_KEY = "duplicate_key"
    UNKNOWN_COLUMN = "unknown_column"
    UNKNOWN_ROLE = "unknown_role"
    ROLE_ORDER = "role_order"
    EMPTY_CONTENT = "empty_content"
    CONTROL_CHARACTER = "control_character"
    SPECIAL_TOKEN = "special_token"
    HELD_OUT = "held_out"
    UNRENDERABLE = "unrenderable"
    UNSUPERVISED = "unsupervised"
    ANSWER_LEAKAGE = "answer_leakage"
    CONTAMINATION = "contamination"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    CONFLICTING_ANSWER = "conflicting_answer"
    ANSWER_IN_PROMPT = "answer_in_prompt"
    REPETITION = "repetition"
    DEGENERATE = "degenerate"
    MOJIBAKE = "mojibake"
    BROKEN_JSON = "broken_json"
    BROKEN_CODE = "broken_code"
    PROTOCOL_MIX = "protocol_mix"
    PERSONAL_DATA = "personal_data"
    SECRET = "secret"
    PROMPT_ANSWER_RATIO = "prompt_answer_ratio"
    TRUNCATED = "truncated"
    ANSWER_DIVERSITY = "answer_diversity"
    ANSWER_BALANCE = "answer_balance"
    LENGTH_BOUNDS = "length_bounds"
    DRIFT = "drift"
    TOO_MANY_REJECTED = "too_many_rejected"


_REPAIRED = (Rule.BYTE_ORDER_MARK, Rule.BLANK_LINE)
_WARNINGS = (
    Rule.UNKNOWN_COLUMN,
    Rule.EXACT_DUPLICATE,
    Rule.NEAR_DUPLICATE,
    Rule.CONFLICTING_ANSWER,
    Rule.ANSWER_IN_PROMPT,
    Rule.REPETITION,
    Rule.DEGENERATE,
    Rule.MOJIBAKE,
    Rule.BROKEN_JSON,
    Rule.BROKEN_CODE,
    Rule.PROTOCOL_MIX,
    Rule.PERSONAL_DATA,
    Rule.SECRET,
    Rule.PROMPT_ANSWER_RATIO,
    Rule.TRUNCATED,
    Rule.ANSWER_DIVERSITY,
    Rule.ANSWER_BALANCE,
    Rule.LENGTH_BOUNDS,
    Rule.DRIFT,
)
SEVERITIES: Mapping[Rule, Severity] = {
    **dict.fromkeys(Rule, Severity.REJECT_ROW),
    **dict.fromkeys((Rule.NOT_TEXT, Rule.EMPTY_FILE, Rule.TOO_MANY_REJECTED), Severity.REJECT_FILE),
    **dict.fromkeys(_REPAIRED + _WARNINGS, Severity.WARN),
}
"""The severity of each rule where the settings name no other (`validation.severities`)."""
ADJUSTABLE: frozenset[Rule] = frozenset(_WARNINGS) | {Rule.ANSWER_LEAKAGE, Rule.CONTAMINATION}
"""Rules whose severity the settings may change; without the others a row could not be read, or trained on."""


class Finding(NamedTuple):
    """A rule that a row breaks, and what was seen; the rule's severity decides what it costs."""

    rule: Rule
    detail: str


@dataclass(frozen=True)
class Example:
    """One place where a rule was broken; `line` counts from 1, None where it is the whole file."""

    line: int | None
    seen: str


@dataclass(frozen=True)
class Problem:
    """All breaches of one rule; `message` is a sentence for people.

    `share` is of the file's rows; of the accepted rows where the rule is about these (`truncated`,
    `unknown_column`).
    """

    rule: Rule
    severity: Severity
    count: int
    share: float
    message: str
    examples: tuple[Example, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule.value,
            "severity": self.severity.value,
            "count": self.count,
            "share": self.share,
            "message": self.message,
            "examples": [{"line": example.line, "seen": example.seen} for example in self.examples],
        }


@dataclass
class Tally:
    """Counts breaches while a file is read; bounded memory, whatever the file holds."""

    counts: dict[Rule, int] = field(default_factory=dict)
    examples: dict[Rule, list[Example]] = field(default_factory=dict)

    def add(self, rule: Rule, line: int | None, seen: str) -> None:
        self.counts[rule] = self.counts.get(rule, 0) + 1
        kept = self.examples.setdefault(rule, [])
        if len(kept) < EXAMPLES:
            kept.append(Example(line, seen))

    def count(self, rule: Rule) -> int:
        return self.counts.get(rule, 0)

    def problem(self, rule: Rule, rows: int, message: str, severity: Severity) -> Problem:
        """The breaches of one rule so far, as a share of `rows`."""
        count = self.count(rule)
        share = min(1.0, count / rows) if rows else 1.0
        examples = tuple(self.examples.get(rule, ()))
        return Problem(rule, severity, count, share, message, examples)


@dataclass(frozen=True)
class RejectedRow:
    """A line that goes to quarantine: `line` counts from 1, `excerpt` is its beginning."""

    line: int
    reason: Rule
    detail: str
    excerpt: str

    def to_row(self) -> dict[str, Any]:
        """As quarantine keeps it."""
        return {"line": self.line, "reason": self.reason.value, "detail": self.detail, "excerpt": self.excerpt}


@dataclass(frozen=True)
class Report:
    """The content gate's verdict on one file.

    `accepted + rejected = rows` and `rows + blank_lines = lines`, always. `validators` maps
    validator names to their versions.
    """

    path: str
    valid: bool
    schema: str
    level: Level
    lines: int
    blank_lines: int
    accepted: int
    rejected: int
    problems: tuple[Problem, ...]
    stats: Mapping[str, Any]
    validators: Mapping[str, str]

    @property
    def rows(self) -> int:
        return self.accepted + self.rejected

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity is Severity.WARN)

    @property
    def blocking(self) -> tuple[Problem, ...]:
        """The problems for which the file is refused."""
        return tuple(problem for problem in self.problems if problem.severity is Severity.REJECT_FILE)

    def rejected_by_rule(self) -> dict[str, int]:
        """Rejected rows per rule id; the values add up to `rejected`."""
        rows = (problem for problem in self.problems if problem.severity is Severity.REJECT_ROW)
        return {problem.rule.value: problem.count for problem in rows}

    def to_json(self) -> dict[str, Any]:
        """JSON-able, in the shape of one entry of `gpu-assets validate --json`."""
        return {
            "path": self.path,
            "valid": self.valid,
            "schema": self.schema,
            "level": self.level.value,
            "lines": self.lines,
            "blank_lines": self.blank_lines,
            "rows": self.rows,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "problems": [problem.to_json() for problem in self.problems],
            "stats": dict(self.stats),
            "validators": dict(self.validators),
        }

    def headline(self) -> str:
        """One sentence for a person: the verdict, its cause, the first place and the next step."""
        name = printable(self.path.rsplit("/", 1)[-1])
        if not self.valid:
            return f"{name} is refused: {'; '.join(problem.message for problem in self.blocking)}"
        sentence = f"{name}: {self.accepted:,} of {self.rows:,} rows accepted as {self.schema}"
        if self.rejected:
            sentence += f", {self.rejected:,} in quarantine ({counts_text(self.problems)})"
        if self.warnings:
            sentence += f"; {'; '.join(problem.message for problem in self.warnings)}"
        return sentence


def counts_text(problems: Sequence[Problem]) -> str:
    """Rejected rows by rule, most first, with the first example of the commonest."""
    by_count = sorted(
        (problem for problem in problems if problem.severity is Severity.REJECT_ROW),
        key=lambda problem: -problem.count,
    )
    if not by_count:
        return "none"
    text = ", ".join(f"{problem.rule} {problem.count:,}" for problem in by_count)
    first = by_count[0].examples[0]
    return f"{text}; line {first.line}: {first.seen}"
