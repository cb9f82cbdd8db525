"""One pass over one file: chunks of lines in, counts, findings and rows out.

Level QUICK without a sink only counts the lines that are plainly good; everything else decodes each line.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any

from gpu_assets.rendering import Renderer
from validators.balance import find_imbalance, find_imbalanced_turns
from validators.frame import AcceptedRow, to_frame
from validators.grammar import PlainRows
from validators.lines import EXCERPT_BYTES, Chunk, Line
from validators.policy import Policy
from validators.quoting import MAX_QUOTED, name_list, quote_bytes
from validators.report import Finding, RejectedRow, Rule, Severity, Tally
from validators.rows import Rejection, Row, RowDecoder, check_line
from validators.rules import RowRules
from validators.sinks import LineSink, RowSink
from validators.spec import DatasetSpec
from validators.statistics import RowStatistics
from validators.tokens import TokenCount, count_tokens

if TYPE_CHECKING:
    from validators.deep import DeepRules

MAX_NAMES = 100
"""Unknown columns stop being collected here; a hostile file has others in every row."""


@dataclass
class Reading:
    """What one pass has seen so far; with no `renderer` no tokens are counted, and there are no `deep` rules.

    `past` is the length histogram of what the same generator made before.
    """

    spec: DatasetSpec
    policy: Policy
    rules: RowRules
    plain_rows: PlainRows
    renderer: Renderer | None
    deep: "DeepRules | None"
    sink: RowSink | None
    past: Sequence[int] | None = None
    line_sink: LineSink | None = None
    tally: Tally = field(default_factory=Tally)
    unknown_columns: set[str] = field(default_factory=set)
    lines: int = 0
    blank_lines: int = 0
    accepted: int = 0
    rejected: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        self._decoder = RowDecoder(self.spec)
        self._statistics = RowStatistics(self.spec.kind)
        self._rejections: list[tuple[Line, Rejection]] = []
        self._blank: list[int] = []

    def read(self, chunk: Chunk) -> None:
        """Judge the lines of a chunk and hand its rows to the sink."""
        self.bytes += len(chunk.data) + chunk.skipped
        plain = self.plain_rows.match(chunk)
        if plain is not None and self.renderer is None and self.sink is None:
            self._count_plain(int(plain.sum()))
            rows = [row for line in chunk.pick((~plain).arg_true()) if (row := self._examine(line))]
        else:
            known = repeat(False) if plain is None else plain
            rows = [
                row
                for line, is_plain in zip(chunk.lines(), known, strict=False)
                if (row := self._examine(line, is_plain))
            ]
        self._pass_on(rows)
        self._reject(chunk)

    def statistics(self) -> dict[str, Any]:
        """Of the whole file; only its size where no tokens are counted."""
        stats: dict[str, Any] = {"bytes": self.bytes}
        if self.renderer is not None:
            stats |= self._statistics.to_json(self.policy.max_length)
        return stats | ({"not_looked_for": self.deep.blind_spot} if self.deep is not None else {})

    def about_file(self) -> Iterator[Finding]:
        """What its rows show together."""
        if self.renderer is not None:
            yield from find_imbalance(self._statistics.rows(), self.policy, self.past)
        if self.deep is not None:
            yield from self.deep.about_file()

    def _count_plain(self, rows: int) -> None:
        self.lines += rows
        self.accepted += rows

    def _examine(self, line: Line, is_plain: bool = False) -> Row | None:
        """The row of a line that passes the rules of level QUICK; one that is plainly good need not be asked."""
        self.lines += 1
        if line.number == 1 and line.data.startswith(codecs.BOM_UTF8):
            self.tally.add(Rule.BYTE_ORDER_MARK, 1, "EF BB BF")
            line = Line(1, line.data[len(codecs.BOM_UTF8) :], line.size - len(codecs.BOM_UTF8))
        if line.size <= self.policy.thresholds.max_row_bytes and not line.data.strip():
            self.blank_lines += 1
            self._blank.append(line.number)
            self.tally.add(Rule.BLANK_LINE, line.number, quote_bytes(line.data))
            return None
        try:
            if not is_plain:
                check_line(line, self.policy.thresholds.max_row_bytes)
            row = self._decoder.decode(line)
            if not is_plain:
                self.rules.check(row, self.spec.kind)
            return row
        except Rejection as rejection:
            self._rejections.append((line, rejection))
            return None

    def _pass_on(self, rows: Sequence[Row]) -> None:
        accepted = self._look_deep(self._count_tokens(rows))
        self.accepted += len(accepted)
        for one in accepted:
            self._note_unknown_columns(one.row)
        if self.renderer is not None:
            self._statistics.add(accepted)
        if self.sink is not None and accepted:
            self.sink.accept(to_frame(accepted, self.spec.kind))

    def _count_tokens(self, rows: Sequence[Row]) -> list[AcceptedRow]:
        if self.renderer is None:
            return [AcceptedRow(row, None) for row in rows]
        counted = []
        for row, tokens in zip(
            rows, count_tokens(self.renderer, rows, self.spec.kind, self.policy.max_length), strict=True
        ):
            if isinstance(tokens, Rejection):
                self._rejections.append((row.line, tokens))
            elif self._passes(row, self._find_imbalance(row, tokens)):
                counted.append(AcceptedRow(row, tokens))
        return counted

    def _look_deep(self, rows: list[AcceptedRow]) -> list[AcceptedRow]:
        if self.deep is None:
            return rows
        findings = self.deep.check([accepted.row for accepted in rows])
        return [accepted for accepted, found in zip(rows, findings, strict=True) if self._passes(accepted.row, found)]

    def _passes(self, row: Row, findings: Iterable[Finding]) -> bool:
        """Whether no finding rejects the row; those of a row that passes are counted."""
        found = list(findings)
        for finding in found:
            if self.policy.severity(finding.rule) is Severity.REJECT_ROW:
                self._rejections.append((row.line, Rejection(finding.rule, finding.detail)))
                return False
        for finding in found:
            self.tally.add(finding.rule, row.line.number, finding.detail)
        return True

    def _find_imbalance(self, row: Row, tokens: TokenCount) -> Iterator[Finding]:
        if tokens.truncated:
            yield Finding(Rule.TRUNCATED, f"{tokens.num_tokens:,} tokens")
        if self.spec.kind == "chat_sft" and (finding := find_imbalanced_turns(row.messages, self.policy.thresholds)):
            yield finding

    def _note_unknown_columns(self, row: Row) -> None:
        if row.unknown_columns:
            self.tally.add(Rule.UNKNOWN_COLUMN, row.line.number, name_list(row.unknown_columns))
            if len(self.unknown_columns) < MAX_NAMES:
                self.unknown_columns.update(column[:MAX_QUOTED] for column in row.unknown_columns)

    def _reject(self, chunk: Chunk) -> None:
        """Count the chunk's rejections in the order of their lines, and hand them on."""
        rejections, self._rejections = sorted(self._rejections, key=lambda pair: pair[0].number), []
        self.rejected += len(rejections)
        rows = []
        for line, rejection in rejections:
            self.tally.add(rejection.rule, line.number, rejection.detail)
            excerpt = line.data[:EXCERPT_BYTES].decode("utf-8", "backslashreplace")
            rows.append(RejectedRow(line.number, rejection.rule, rejection.detail, excerpt))
        if self.sink is not None and rows:
            self.sink.reject(rows)
        blank, self._blank = self._blank, []
        if self.line_sink is not None:
            self.line_sink.take(chunk, {*blank, *(row.line for row in rows)}, rows)
