"""The content gate: every row of a file checked, the good ones as a frame, the others with a reason.

A file is read to its end whatever it holds. It is valid if no problem of severity reject_file was
found; its good rows may then be trained on, the others wait in quarantine. Writes nothing, and
knows neither Dagster nor where files lie.
"""

import codecs
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from tokenizers import Tokenizer

from gpu_assets.errors import DatasetInvalid
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Hyperparams, Validation
from validators.frame import AcceptedRow, accepted_schema, to_frame
from validators.quoting import MAX_QUOTED, name_list, quote_bytes
from validators.report import Level, RejectedRow, Report, Rule, Severity, Tally
from validators.rows import (
    EXCERPT_BYTES,
    Line,
    Rejection,
    Row,
    RowDecoder,
    check_line,
    foreign_format,
    open_lines,
    read_columns,
    read_lines,
)
from validators.rules import RowRules
from validators.spec import VALIDATOR_NAME as SPEC_NAME
from validators.spec import VALIDATOR_VERSION as SPEC_VERSION
from validators.spec import DatasetSpec, SpecValidator
from validators.statistics import balance_statistics, token_statistics
from validators.tokens import count_tokens
from validators.verdict import file_problems

VALIDATOR_NAME = "data_validator"
VALIDATOR_VERSION = "1.0.0"
VALIDATORS = {SPEC_NAME: SPEC_VERSION, VALIDATOR_NAME: VALIDATOR_VERSION}

BATCH_ROWS = 4096
BATCH_BYTES = 32 * 2**20
MAX_NAMES = 100
"""Unknown columns stop being collected here; a hostile file has others in every row."""


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

    `is_held_out` says of a row's `metadata.problem_key` whether it is reserved for evaluation, and
    `asks_held_out` of a turn's text whether it asks a reserved problem.
    """

    def __init__(
        self,
        renderer: Renderer | Tokenizer,
        limits: Limits | None = None,
        is_held_out: Callable[[str], bool] = lambda _: False,
        asks_held_out: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._renderer = renderer if isinstance(renderer, Renderer) else None
        self._limits = limits or Limits()
        self._rules = RowRules(_special_tokens(renderer), is_held_out, asks_held_out)

    def validate_file(
        self, path: Path | str, spec: DatasetSpec | None = None, level: str = Level.STANDARD
    ) -> Validated:
        """Read a file to its end and judge it.

        Without `spec` the schema follows from the columns. `level` is QUICK or STANDARD.

        Raises:
            DatasetInvalid: if the file cannot be read, its columns decide no schema, the level is
                unknown, or it needs a renderer and there is none. What is wrong with the rows is
                never raised, but reported.
        """
        path = Path(path)
        depth = self._level(level)
        if spec is None:
            columns = read_columns(path, self._limits.validation.max_row_bytes)
            spec = SpecValidator().choose(None, columns).spec
        reading = _Reading(spec, depth, self._limits, self._rules, self._renderer)
        with open_lines(path) as file:
            num_bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(8)
            file.seek(0)
            frames = [to_frame(batch, spec.kind) for batch in reading.batches(read_lines(file, reading.max_row_bytes))]
        accepted = pl.concat([to_frame([], spec.kind), *frames])
        accepted = accepted_schema(spec.kind).validate(accepted, lazy=True)
        rejected = tuple(sorted(reading.rejected, key=lambda row: row.line))
        report = self._report(path, reading, accepted, foreign_format(head), {"bytes": num_bytes})
        return Validated(report, accepted, rejected)

    def _level(self, level: str) -> Level:
        try:
            depth = Level(level.lower())
        except ValueError:
            raise DatasetInvalid(f"level {level!r} is unknown; known levels: {', '.join(Level)}") from None
        if depth is not Level.QUICK and self._renderer is None:
            raise DatasetInvalid(
                f"level {depth} counts tokens as training does: it needs a Renderer, not a bare tokenizer"
            )
        return depth

    def _report(
        self, path: Path, reading: "_Reading", accepted: pl.DataFrame, foreign: str | None, stats: dict[str, Any]
    ) -> Report:
        if reading.level is not Level.QUICK:
            stats |= token_statistics(accepted, self._limits.max_length)
            stats |= balance_statistics(accepted, reading.spec.kind)
        problems = file_problems(
            reading.tally,
            accepted=accepted.height,
            rejected=len(reading.rejected),
            foreign=foreign,
            unknown_columns=name_list(reading.unknown_columns),
            limits=self._limits.validation,
            max_length=self._limits.max_length,
        )
        return Report(
            path=str(path),
            valid=not any(problem.severity is Severity.REJECT_FILE for problem in problems),
            schema=reading.spec.id,
            level=reading.level,
            lines=reading.lines,
            blank_lines=reading.blank_lines,
            accepted=accepted.height,
            rejected=len(reading.rejected),
            problems=problems,
            stats=stats,
            validators=VALIDATORS,
        )


@dataclass
class _Reading:
    """One pass over one file, and what it has seen so far."""

    spec: DatasetSpec
    level: Level
    limits: Limits
    rules: RowRules
    renderer: Renderer | None
    tally: Tally = field(default_factory=Tally)
    rejected: list[RejectedRow] = field(default_factory=list)
    unknown_columns: set[str] = field(default_factory=set)
    lines: int = 0
    blank_lines: int = 0

    @property
    def max_row_bytes(self) -> int:
        return self.limits.validation.max_row_bytes

    def batches(self, lines: Iterator[Line]) -> Iterator[list[AcceptedRow]]:
        """Accepted rows, in batches bounded in rows and in bytes."""
        decoder = RowDecoder(self.spec)
        batch: list[AcceptedRow] = []
        batch_bytes = 0
        for line in lines:
            accepted = self._accept(line, decoder)
            if accepted is None:
                continue
            batch.append(accepted)
            batch_bytes += line.size
            if len(batch) == BATCH_ROWS or batch_bytes > BATCH_BYTES:
                yield batch
                batch, batch_bytes = [], 0
        if batch:
            yield batch

    def _accept(self, line: Line, decoder: RowDecoder) -> AcceptedRow | None:
        self.lines += 1
        if line.number == 1 and line.data.startswith(codecs.BOM_UTF8):
            self.tally.add(Rule.BYTE_ORDER_MARK, 1, "EF BB BF")
            line = Line(1, line.data[len(codecs.BOM_UTF8) :], line.size - len(codecs.BOM_UTF8))
        if line.size <= self.max_row_bytes and not line.data.strip():
            self.blank_lines += 1
            self.tally.add(Rule.BLANK_LINE, line.number, quote_bytes(line.data))
            return None
        try:
            check_line(line, self.max_row_bytes)
            row = decoder.decode(line)
            self.rules.check(row, self.spec.kind)
            return self._count(row)
        except Rejection as rejection:
            self.tally.add(rejection.rule, line.number, rejection.detail)
            excerpt = line.data[:EXCERPT_BYTES].decode("utf-8", "backslashreplace")
            self.rejected.append(RejectedRow(line.number, rejection.rule, rejection.detail, excerpt))
            return None

    def _count(self, row: Row) -> AcceptedRow:
        tokens = None
        if self.level is not Level.QUICK and self.renderer is not None:
            tokens = count_tokens(self.renderer, row, self.spec.kind, self.limits.max_length)
            if tokens.truncated:
                self.tally.add(Rule.TRUNCATED, row.line.number, f"{tokens.num_tokens:,} tokens")
        if row.unknown_columns:
            self.tally.add(Rule.UNKNOWN_COLUMN, row.line.number, name_list(row.unknown_columns))
            if len(self.unknown_columns) < MAX_NAMES:
                self.unknown_columns.update(column[:MAX_QUOTED] for column in row.unknown_columns)
        return AcceptedRow(row, tokens)


def _special_tokens(renderer: Renderer | Tokenizer) -> frozenset[str]:
    if isinstance(renderer, Renderer):
        return renderer.special_tokens() | {renderer.end_token}
    added = renderer.get_added_tokens_decoder().values()
    return frozenset(token.content for token in added if token.special)
