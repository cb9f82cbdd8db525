"""Verdicts on files, for people and as JSON."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from gpu_assets.cli.options import LOG_WIDTH
from validators.quoting import printable
from validators.report import Problem, Report, Severity

STYLES = {Severity.REJECT_FILE: "red", Severity.REJECT_ROW: "yellow", Severity.WARN: "cyan"}


@dataclass(frozen=True)
class FileVerdict:
    """A report, or a sentence that says why there is none; `readable` is false where the file cannot be read."""

    path: str
    report: Report | None = None
    error: str = ""
    readable: bool = True

    @property
    def valid(self) -> bool:
        return self.report is not None and self.report.valid

    @property
    def sentence(self) -> str:
        """The error, which names the file."""
        return self.error if self.path in self.error else f"{self.path}: {self.error}"


def to_json(verdict: FileVerdict) -> dict[str, Any]:
    """One entry of `files`; a readable file without a report is not valid, which is said beside the error."""
    if verdict.report is not None:
        return verdict.report.to_json()
    refused = {"valid": False} if verdict.readable else {}
    return {"path": verdict.path, **refused, "error": verdict.error}


def print_verdicts(verdicts: Sequence[FileVerdict]) -> None:
    """One table of the files, then one of each file's problems."""
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    console.print(_files_table(verdicts))
    for verdict in verdicts:
        if verdict.error:
            console.print(Text(f"\n{verdict.sentence}"), soft_wrap=True)
        elif verdict.report is not None and verdict.report.problems:
            console.print(Text(f"\n{verdict.path}", "bold"), soft_wrap=True)
            console.print(_problems_table(verdict.report.problems))
    blind_spots = {verdict.report.stats.get("not_looked_for") for verdict in verdicts if verdict.report is not None}
    for sentence in blind_spots - {None}:
        console.print(Text(f"\n{sentence}", "dim"))


def _files_table(verdicts: Sequence[FileVerdict]) -> Table:
    table = Table(
        Column("file", overflow="fold"),
        "verdict",
        "schema",
        "level",
        Column("rows", justify="right"),
        Column("accepted", justify="right"),
        Column("rejected", justify="right"),
        box=None,
        pad_edge=False,
    )
    for verdict in verdicts:
        report = verdict.report
        counts = (
            ("", "", "", "", "")
            if report is None
            else (report.schema, report.level, f"{report.rows:,}", f"{report.accepted:,}", f"{report.rejected:,}")
        )
        table.add_row(Text(verdict.path), _verdict_text(verdict), *counts)
    return table


def _verdict_text(verdict: FileVerdict) -> Text:
    if not verdict.readable:
        return Text("unreadable", "red")
    return Text("valid", "green") if verdict.valid else Text("not valid", "red")


def _problems_table(problems: Sequence[Problem]) -> Table:
    table = Table(
        Column("rule", no_wrap=True),
        Column("severity", no_wrap=True),
        Column("count", justify="right"),
        Column("share", justify="right"),
        Column("line", justify="right"),
        Column("seen first", overflow="fold"),
        box=None,
        pad_edge=False,
    )
    for problem in problems:
        first = problem.examples[0] if problem.examples else None
        table.add_row(
            problem.rule,
            Text(problem.severity, STYLES[problem.severity]),
            f"{problem.count:,}",
            _percent(problem.share),
            "" if first is None or first.line is None else f"{first.line:,}",
            Text("" if first is None else printable(first.seen)),
        )
    return table


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or not share else "<0.1%"
