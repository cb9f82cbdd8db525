"""Accepted rows to token sequences, in the order of the plan."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import polars as pl

from gpu_assets.errors import DatasetInvalid, RenderingError
from gpu_assets.rendering import Message, Renderer, Sample
from gpu_assets.rendering.renderer import Turn
from gpu_assets.training.records import ReplayedRows, TokenCount, TrainingDataset

RENDERED_AT_ONCE = 1024
"""Rows whose texts are tokenized together, on all cores."""

Answers = tuple[str, ...] | None
"""The texts of a sequence's assistant turns, end token included; None for a plain text."""


@dataclass(frozen=True)
class Samples:
    """All sequences of a plan, the replayed rows' last.

    `row_of[i]` is the row, counted over all datasets, that sequence i teaches, `answers[i]` what it should say, and
    `is_cut[i]` whether it lost its end. `num_rows` are the rows of the plan's own datasets; `replayed_rows` follow.
    """

    sequences: tuple[Sample, ...]
    row_of: tuple[int, ...]
    answers: tuple[Answers, ...]
    is_cut: tuple[bool, ...]
    num_rows: int
    replayed_rows: int = 0

    @property
    def lengths(self) -> list[int]:
        return [len(sample.ids) for sample in self.sequences]

    @property
    def tokens(self) -> TokenCount:
        return TokenCount(sum(self.lengths), sum(sample.num_supervised for sample in self.sequences))


class _Sequence(NamedTuple):
    sample: Sample
    row: int
    answers: Answers
    is_cut: bool


def load_samples(
    datasets: Sequence[TrainingDataset], renderer: Renderer, max_length: int, replay: Sequence[ReplayedRows] = ()
) -> Samples:
    """Render every accepted row; sequences longer than `max_length` tokens are cut at the end.

    Raises:
        DatasetInvalid: if a dataset has another number of rows than its manifest says, or a row
            has no supervised token left after the cut.
    """
    found: list[_Sequence] = []
    num_rows = 0
    sources: tuple[TrainingDataset | ReplayedRows, ...] = (*datasets, *replay)
    for source in sources:
        found.extend(_sequences_of(source, renderer, max_length, first_row=num_rows))
        num_rows += source.rows
    replayed = sum(rows.rows for rows in replay)
    columns = zip(*found, strict=True) if found else ((), (), (), ())
    sequences, row_of, answers, is_cut = columns
    return Samples(sequences, row_of, answers, is_cut, num_rows - replayed, replayed)


def fit_rows(rows: ReplayedRows, renderer: Renderer, max_length: int) -> frozenset[str]:
    """The hashes of those rows that can be rendered with something supervised within `max_length` tokens."""
    frame = _read(rows)
    return frozenset(
        row_sha256
        for place, row_sha256 in enumerate(frame["row_sha256"])
        if _is_fit(frame[place], renderer, max_length)
    )


def _is_fit(row: pl.DataFrame, renderer: Renderer, max_length: int) -> bool:
    try:
        (rendered,) = _rendered_rows(row, renderer, "")
    except DatasetInvalid:
        return False
    return any(_cut(sample, max_length).num_supervised for sample, _ in rendered)


def _sequences_of(
    source: TrainingDataset | ReplayedRows, renderer: Renderer, max_length: int, first_row: int
) -> Iterator[_Sequence]:
    row = first_row
    for rendered in _rendered_rows(_read(source), renderer, source.key):
        kept = [_cut(sample, max_length) for sample, _ in rendered]
        if not any(sample.num_supervised for sample in kept):
            raise DatasetInvalid(
                f"dataset {source.key}, accepted row {row - first_row + 1}: nothing supervised is left within "
                f"max_length={max_length}; validate it again with this setting"
            )
        for cut, (whole, answers) in zip(kept, rendered, strict=True):
            if cut.num_supervised:
                yield _Sequence(cut, row, answers, is_cut=len(cut.ids) < len(whole.ids))
        row += 1
    if row - first_row != source.rows:
        raise DatasetInvalid(
            f"dataset {source.key}: {source.rows_path} holds {row - first_row} rows, its manifest says "
            f"{source.rows}; validate it again"
        )


def _read(source: TrainingDataset | ReplayedRows) -> pl.DataFrame:
    if isinstance(source, TrainingDataset):
        return pl.read_parquet(source.rows_path)
    chosen = pl.scan_parquet(source.rows_path).filter(pl.col("row_sha256").is_in(list(source.row_hashes)))
    return chosen.collect().unique("row_sha256", keep="first", maintain_order=True)


def _rendered_rows(frame: pl.DataFrame, renderer: Renderer, key: str) -> Iterator[list[tuple[Sample, Answers]]]:
    """Of each row its sequences, each with the answers that it teaches."""
    for place, part in enumerate(frame.iter_slices(RENDERED_AT_ONCE)):
        if "messages" not in part.columns:
            for sample in renderer.completion_samples(part["text"].to_list()):
                yield [(sample, None)]
            continue
        turns = [
            _turns(messages, renderer, key, row)
            for row, messages in enumerate(part["messages"].to_list(), start=place * RENDERED_AT_ONCE + 1)
        ]
        for said, encoded in zip(turns, renderer.encode_turns(turns), strict=True):
            texts = iter([turn.answer for turn in said])
            yield [(sample, tuple(islice(texts, _regions(sample)))) for sample in encoded]


def _turns(messages: Sequence[Message], renderer: Renderer, key: str, row: int) -> list[Turn]:
    try:
        return renderer.training_turns(messages)
    except RenderingError as error:
        raise DatasetInvalid(f"dataset {key}, accepted row {row}: {error}; validate it again") from error


def _regions(sample: Sample) -> int:
    """Unbroken runs of supervised tokens: an answer each, since prompts lie between them."""
    supervised = (False, *sample.supervised)
    return sum(1 for before, here in zip(supervised, sample.supervised, strict=False) if here and not before)


def _cut(sample: Sample, max_length: int) -> Sample:
    return Sample(sample.ids[:max_length], sample.supervised[:max_length])
