"""Where validated rows go: nowhere, or into memory."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl

from validators.frame import accepted_schema, to_frame
from validators.lines import Chunk
from validators.report import RejectedRow
from validators.spec import Kind


class RowSink(Protocol):
    """Takes the rows of one file as they are read, a batch at a time, each batch in the order of its lines."""

    def accept(self, rows: pl.DataFrame) -> None:
        """Rows in the columns of `accepted_schema`."""

    def reject(self, rows: Sequence[RejectedRow]) -> None:
        """Rows with the rule that each breaks."""


class LineSink(Protocol):
    """Sees the lines of one file as they are read, a chunk at a time, when it is known which of them stay."""

    def take(self, chunk: Chunk, left_out: Collection[int], rejected: Sequence[RejectedRow]) -> None:
        """`left_out` are the numbers of the rejected lines and of the blank ones."""


@dataclass
class RowCollector:
    """Keeps all rows in memory."""

    kind: Kind
    frames: list[pl.DataFrame] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)

    def accept(self, rows: pl.DataFrame) -> None:
        self.frames.append(rows)

    def reject(self, rows: Sequence[RejectedRow]) -> None:
        self.rejected.extend(rows)

    def accepted(self) -> pl.DataFrame:
        """All accepted rows, held to `accepted_schema` as a whole."""
        rows = pl.concat([to_frame([], self.kind), *self.frames])
        return accepted_schema(self.kind).validate(rows, lazy=True)
