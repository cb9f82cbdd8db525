"""Accepted rows to token sequences, in the order of the plan."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gpu_assets.errors import DatasetInvalid
from gpu_assets.rendering import Renderer, Sample
from gpu_assets.training.records import TokenCount, TrainingDataset


@dataclass(frozen=True)
class Samples:
    """All sequences of a plan; `row_of[i]` is the row, counted over all datasets, that sequence i teaches."""

    sequences: tuple[Sample, ...]
    row_of: tuple[int, ...]
    num_rows: int

    @property
    def lengths(self) -> list[int]:
        return [len(sample.ids) for sample in self.sequences]

    @property
    def tokens(self) -> TokenCount:
        return TokenCount(sum(self.lengths), sum(sample.num_supervised for sample in self.sequences))


def load_samples(datasets: Sequence[TrainingDataset], renderer: Renderer, max_length: int) -> Samples:
    """Render every accepted row; sequences longer than `max_length` tokens are cut at the end.

    Raises:
        DatasetInvalid: if a dataset has another number of rows than its manifest says, or a row
            has no supervised token left after the cut.
    """
    sequences: list[Sample] = []
    row_of: list[int] = []
    row = 0
    for dataset in datasets:
        first = row
        for samples in _rendered_rows(dataset.rows_path, renderer):
            kept = [cut for cut in (_cut(sample, max_length) for sample in samples) if cut.num_supervised]
            if not kept:
                raise DatasetInvalid(
                    f"dataset {dataset.key}, accepted row {row - first + 1}: nothing supervised is left within "
                    f"max_length={max_length}; validate it again with this setting"
                )
            sequences.extend(kept)
            row_of.extend([row] * len(kept))
            row += 1
        if row - first != dataset.rows:
            raise DatasetInvalid(
                f"dataset {dataset.key}: {dataset.rows_path} holds {row - first} rows, its manifest says "
                f"{dataset.rows}; validate it again"
            )
    return Samples(tuple(sequences), tuple(row_of), row)


def _rendered_rows(path: Path, renderer: Renderer) -> Iterator[list[Sample]]:
    rows = pl.read_parquet(path)
    if "messages" in rows.columns:
        for messages in rows["messages"]:
            yield renderer.training_samples([dict(message) for message in messages])
    else:
        for text in rows["text"]:
            yield [renderer.completion_sample(text)]


def _cut(sample: Sample, max_length: int) -> Sample:
    return Sample(sample.ids[:max_length], sample.supervised[:max_length])
