"""The content gate: every row of a file checked, the good ones passed on, the others with a reason.

A file is read to its end whatever it holds. It is valid if no problem of severity reject_file was
found; its good rows may then be trained on, the others wait in quarantine. Writes nothing, and
knows neither Dagster nor where files lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from tokenizers import Tokenizer

from gpu_assets.errors import DatasetInvalid
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Hyperparams, Validation
from validators.grammar import PlainRows
from validators.lines import LineReader, foreign_format
from validators.policy import Policy, check_policies, choose_policy
from validators.quoting import name_list
from validators.reading import Reading
from validators.report import Level, RejectedRow, Report, Severity
from validators.rows import read_columns
from validators.rules import NOTHING_RESERVED, Reserved, RowRules
from validators.sinks import LineSink, RowCollector, RowSink
from validators.spec import VALIDATOR_NAME as SPEC_NAME
from validators.spec import VALIDATOR_VERSION as SPEC_VERSION
from validators.spec import DatasetSpec, SpecValidator
from validators.verdict import file_problems

if TYPE_CHECKING:
    from validators.contamination import EvaluationIndex
    from validators.deep import DeepRules
    from validators.duplicates import DuplicateFinder

VALIDATOR_NAME = "data_validator"
VALIDATOR_VERSION = "2.2.0"
VALIDATORS = {SPEC_NAME: SPEC_VERSION, VALIDATOR_NAME: VALIDATOR_VERSION}


@dataclass(frozen=True)
class Limits:
    """Thresholds; `max_length` is the tokens of a row that training keeps."""

    validation: Validation = field(default_factory=Validation)
    max_length: int = field(default_factory=lambda: Hyperparams().max_length)


@dataclass(frozen=True)
class Validated:
    """The report, the accepted rows (columns of `accepted_schema`), and the rejected, both by line."""

    report: Report
    accepted: pl.DataFrame
    rejected: tuple[RejectedRow, ...]


class DataValidator:
    """Validates files for one renderer; a bare tokenizer is enough for level QUICK.

    `evaluation` is what level DEEP must not find in a row; without it nothing is.
    """

    def __init__(
        self,
        renderer: Renderer | Tokenizer,
        limits: Limits | None = None,
        reserved: Reserved = NOTHING_RESERVED,
        evaluation: "EvaluationIndex | None" = None,
    ) -> None:
        self._renderer = renderer if isinstance(renderer, Renderer) else None
        self._limits = limits or Limits()
        self._reserved = reserved
        self._evaluation = evaluation
        self._special_tokens = _special_tokens(renderer)
        self._rules = RowRules(self._special_tokens, reserved)
        check_policies(self._limits.validation)

    def validate_file(
        self,
        path: Path | str,
        spec: DatasetSpec | None = None,
        level: str | None = Level.STANDARD,
        sink: RowSink | None = None,
        *,
        generator_id: str | None = None,
        duplicates: "DuplicateFinder | None" = None,
        past: Sequence[int] | None = None,
        line_sink: LineSink | None = None,
    ) -> Report:
        """Read a file to its end and judge it, in memory that does not grow with the file below level DEEP.

        Args:
            spec: without it the schema follows from the columns.
            level: None is what the settings say for the generator and the schema.
            sink: takes the rows as they are read; without one, level QUICK decodes only the rows that are not
                plainly good.
            duplicates: compares with what was accepted before; without it only inside the file.
            past: the length histogram of what the same generator made before.
            line_sink: sees the lines themselves; it makes nothing slower.

        Raises:
            DatasetInvalid: if the file cannot be read, its columns decide no schema, the level is
                unknown, or it needs a renderer and there is none. What is wrong with the rows is
                never raised, but reported.
        """
        path = Path(path)
        thresholds = self._limits.validation
        if spec is None:
            spec = SpecValidator().choose(None, read_columns(path, thresholds.max_row_bytes)).spec
        policy = choose_policy(thresholds, self._limits.max_length, spec.id, generator_id, _read_level(level))
        reading = self._reading(spec, policy, duplicates, sink, past, line_sink)
        with LineReader(path) as reader:
            foreign = foreign_format(reader.head())
            for chunk in reader.chunks(thresholds.max_row_bytes):
                reading.read(chunk)
        return _report(path, reading, foreign)

    def validate_rows(self, path: Path | str, spec: DatasetSpec, level: str | None = Level.STANDARD) -> Validated:
        """The same, with all rows in memory.

        Raises:
            DatasetInvalid: as `validate_file`.
        """
        rows = RowCollector(spec.kind)
        report = self.validate_file(path, spec, level, rows)
        return Validated(report, rows.accepted(), tuple(rows.rejected))

    def _reading(
        self,
        spec: DatasetSpec,
        policy: Policy,
        duplicates: "DuplicateFinder | None",
        sink: RowSink | None,
        past: Sequence[int] | None,
        line_sink: LineSink | None,
    ) -> Reading:
        renderer = None if policy.level is Level.QUICK else self._required_renderer(policy.level)
        deep = None
        if renderer is not None and policy.level is Level.DEEP:
            deep = self._deep_rules(spec, policy, renderer, duplicates)
        marks = [*self._special_tokens, *self._reserved.marks]
        plain_rows = PlainRows(spec, marks, policy.thresholds.max_row_bytes)
        return Reading(spec, policy, self._rules, plain_rows, renderer, deep, sink, past, line_sink)

    def _deep_rules(
        self, spec: DatasetSpec, policy: Policy, renderer: Renderer, duplicates: "DuplicateFinder | None"
    ) -> "DeepRules":
        """Imports what only level DEEP needs; the other levels start without it."""
        from validators.contamination import EvaluationIndex
        from validators.deep import DeepRules
        from validators.duplicates import DuplicateFinder
        from validators.history import RowHistory

        evaluation = self._evaluation or EvaluationIndex.build([])
        similarity = policy.thresholds.near_duplicate_similarity
        finder = duplicates or DuplicateFinder(RowHistory.empty(), own_key="", similarity=similarity)
        rejecting = {rule for rule, severity in policy.severities.items() if severity is Severity.REJECT_ROW}
        return DeepRules(spec.kind, evaluation, finder, renderer.encode_batch, rejecting)

    def _required_renderer(self, level: Level) -> Renderer:
        if self._renderer is None:
            raise DatasetInvalid(
                f"level {level} counts tokens as training does: it needs a Renderer, not a bare tokenizer"
            )
        return self._renderer


def _read_level(level: str | None) -> Level | None:
    try:
        return None if level is None else Level(level.lower())
    except ValueError:
        raise DatasetInvalid(f"level {level!r} is unknown; known levels: {', '.join(Level)}") from None


def _report(path: Path, reading: Reading, foreign: str | None) -> Report:
    problems = file_problems(
        reading.tally,
        accepted=reading.accepted,
        rejected=reading.rejected,
        foreign=foreign,
        unknown_columns=name_list(reading.unknown_columns),
        about_file=reading.about_file(),
        policy=reading.policy,
    )
    return Report(
        path=str(path),
        valid=not any(problem.severity is Severity.REJECT_FILE for problem in problems),
        schema=reading.spec.id,
        level=reading.policy.level,
        lines=reading.lines,
        blank_lines=reading.blank_lines,
        accepted=reading.accepted,
        rejected=reading.rejected,
        problems=problems,
        stats=reading.statistics(),
        validators=VALIDATORS,
    )


def _special_tokens(renderer: Renderer | Tokenizer) -> frozenset[str]:
    if isinstance(renderer, Renderer):
        return renderer.special_tokens() | {renderer.end_token}
    added = renderer.get_added_tokens_decoder().values()
    return frozenset(token.content for token in added if token.special)
