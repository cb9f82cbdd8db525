"""Statistics of accepted rows: lengths, truncation and balance, gathered a batch at a time."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from validators.frame import AcceptedRow
from validators.spec import Kind

SHARE_DIGITS = 6
HISTOGRAM_BINS = 40
"""The last bin begins at about 740,000 tokens."""


class RowStatistics:
    """Gathers a few numbers a row, and describes them in the end."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._rows: list[pl.DataFrame] = []
        self._turns: list[pl.DataFrame] = []

    def add(self, rows: Sequence[AcceptedRow]) -> None:
        """Count rows whose tokens are counted."""
        self._rows.append(_row_frame(rows, self._kind))
        self._turns.append(_turn_frame(rows, self._kind))

    def rows(self) -> pl.DataFrame:
        """A row a row: `total`, `supervised`, `truncated`, `skill`, and `answer`, a hash of the last turn."""
        return pl.concat([_row_frame([], self._kind), *self._rows])

    def to_json(self, max_length: int) -> dict[str, Any]:
        """Token counts per row before any cut, what `max_length` cuts, and what the turns are like."""
        rows = self.rows()
        if rows.is_empty():
            return {}
        return _describe_tokens(rows, max_length) | _describe_turns(pl.concat(self._turns), self._kind)


def _row_frame(rows: Sequence[AcceptedRow], kind: Kind) -> pl.DataFrame:
    counts = [row.tokens for row in rows if row.tokens is not None]
    answers = [row.row.text if kind == "completion" else row.row.messages[-1].content for row in rows]
    return pl.DataFrame(
        {
            "total": pl.Series([count.num_tokens for count in counts], dtype=pl.Int32),
            "supervised": pl.Series([count.num_supervised for count in counts], dtype=pl.Int32),
            "truncated": pl.Series([count.truncated for count in counts], dtype=pl.Boolean),
            "skill": pl.Series([row.row.skill for row in rows], dtype=pl.String),
            "answer": pl.Series(answers, dtype=pl.String).hash(),
        }
    )


def _turn_frame(rows: Sequence[AcceptedRow], kind: Kind) -> pl.DataFrame:
    """A row a turn: its role, its characters, and a hash of what it says."""
    if kind == "completion":
        said = [("text", row.row.text) for row in rows]
    else:
        said = [(turn.role, turn.content) for row in rows for turn in row.row.messages]
    contents = pl.Series([content for _, content in said], dtype=pl.String)
    return pl.DataFrame(
        {
            "role": pl.Series([role for role, _ in said], dtype=pl.String),
            "characters": contents.str.len_chars(),
            "content": contents.hash(),
        }
    )


def _describe_tokens(tokens: pl.DataFrame, max_length: int) -> dict[str, Any]:
    truncated = int(tokens["truncated"].sum())
    return {
        "max_length": max_length,
        "num_tokens": _distribution(tokens["total"]),
        "num_supervised": _distribution(tokens["supervised"]),
        "supervised_share": _share(int(tokens["supervised"].sum()), int(tokens["total"].sum())),
        "length_histogram": length_histogram(tokens["total"]),
        "truncated_rows": truncated,
        "truncated_share": _share(truncated, tokens.height),
    }


def _describe_turns(turns: pl.DataFrame, kind: Kind) -> dict[str, Any]:
    by_role = turns.group_by("role").agg(pl.col("characters").sum()).sort("role")
    characters = {str(role): int(count) for role, count in by_role.iter_rows()}
    if kind == "completion":
        return {"characters": characters, "distinct_texts_share": _distinct_share(turns["content"])}
    answers = turns.filter(pl.col("role") == "assistant")["content"]
    return {
        "characters": characters,
        "turns": turns.height,
        "answer_to_prompt_ratio": _share(characters.get("assistant", 0), characters.get("user", 0)),
        "distinct_answers_share": _distinct_share(answers),
    }


def _distinct_share(hashes: pl.Series) -> float:
    return _share(hashes.n_unique(), hashes.len())


def _distribution(values: pl.Series) -> dict[str, int]:
    quantiles = {"min": 0.0, "median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    picked = {name: int(values.quantile(at, "nearest") or 0) for name, at in quantiles.items()}
    return {**picked, "total": int(values.sum())}


def _share(part: int, whole: int) -> float:
    return round(part / whole, SHARE_DIGITS) if whole else 0.0


def length_histogram(lengths: pl.Series) -> list[int]:
    """Rows by length: bin i holds the lengths from 2^(i/2) to below 2^((i+1)/2) tokens."""
    bins = (lengths.cast(pl.Float64).log(2) * 2).floor().cast(pl.Int32).clip(0, HISTOGRAM_BINS - 1)
    counts = dict(bins.value_counts().iter_rows())
    return [int(counts.get(index, 0)) for index in range(HISTOGRAM_BINS)]
