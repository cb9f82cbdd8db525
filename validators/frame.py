"""Accepted rows as a polars frame, held to a pandera schema; what goes to Parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from validators.rows import Row, content_sha256
from validators.spec import Kind
from validators.tokens import TokenCount

if TYPE_CHECKING:
    import pandera.polars as pa

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


@dataclass(frozen=True, slots=True)
class AcceptedRow:
    """A row that passed; `tokens` is None at level QUICK, which does not count them."""

    row: Row
    tokens: TokenCount | None


def accepted_schema(kind: Kind) -> "pa.DataFrameSchema":
    """Columns of accepted rows; their titles and descriptions are shown with the asset.

    At level QUICK the three token columns are null. Imports pandera, which reading rows does not need.
    """
    import pandera.polars as pa

    content = (
        pa.Column(MESSAGES, description="The conversation's turns, in order.")
        if kind == "chat_sft"
        else pa.Column(pl.String, pa.Check.str_length(min_value=1), description="The text to learn.")
    )
    return pa.DataFrameSchema(
        {
            "line": pa.Column(pl.Int64, pa.Check.ge(1), unique=True, description="Line in the file, from 1."),
            "row_sha256": pa.Column(
                pl.String, pa.Check.str_matches("^[0-9a-f]{64}$"), description="Of the messages or the text alone."
            ),
            "messages" if kind == "chat_sft" else "text": content,
            "metadata": pa.Column(
                pl.String, nullable=True, description="JSON: the row's metadata and the schema's other columns."
            ),
            "num_tokens": pa.Column(
                pl.Int32, pa.Check.ge(1), nullable=True, description="As rendered, before any cut."
            ),
            "num_supervised": pa.Column(
                pl.Int32, pa.Check.ge(1), nullable=True, description="Tokens with a loss, before any cut."
            ),
            "truncated": pa.Column(pl.Boolean, nullable=True, description="Whether a sequence is over max_length."),
        },
        name=f"accepted_{kind}",
        strict=True,
        ordered=True,
    )


def to_frame(rows: Sequence[AcceptedRow], kind: Kind) -> pl.DataFrame:
    """Rows in their order, in the columns of `accepted_schema`."""
    tokens = [row.tokens for row in rows]
    content = (
        _messages([row.row for row in rows])
        if kind == "chat_sft"
        else pl.Series("text", [row.row.text for row in rows], dtype=pl.String)
    )
    return pl.DataFrame(
        [
            pl.Series("line", [row.row.line.number for row in rows], dtype=pl.Int64),
            pl.Series("row_sha256", [content_sha256(row.row, kind) for row in rows], dtype=pl.String),
            content,
            pl.Series("metadata", [row.row.metadata for row in rows], dtype=pl.String),
            pl.Series("num_tokens", [count and count.num_tokens for count in tokens], dtype=pl.Int32),
            pl.Series("num_supervised", [count and count.num_supervised for count in tokens], dtype=pl.Int32),
            pl.Series("truncated", [count and count.truncated for count in tokens], dtype=pl.Boolean),
        ]
    )


def _messages(rows: Sequence[Row]) -> pl.Series:
    """One flat column a field, grouped by row: a list of dicts a row would be a Series a row."""
    turns = [(index, message) for index, row in enumerate(rows) for message in row.messages]
    flat = pl.DataFrame(
        [
            pl.Series("row", [index for index, _ in turns], dtype=pl.Int64),
            pl.Series("role", [message.role for _, message in turns], dtype=pl.String),
            pl.Series("content", [message.content for _, message in turns], dtype=pl.String),
        ]
    )
    grouped = flat.group_by("row", maintain_order=True).agg(pl.struct("role", "content").alias("messages"))
    return grouped["messages"]
