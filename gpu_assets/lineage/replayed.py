"""Rows of earlier datasets that a checkpoint was trained on again, from its manifest and the file beside it."""

from dataclasses import dataclass

import polars as pl

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.training.publish import REPLAY_FILE
from gpu_assets.training.records import Checkpoint


@dataclass(frozen=True)
class Replayed:
    """How many rows of a dataset were trained on again; `rows_sha256` is its version of then."""

    key: str
    rows: int
    rows_sha256: str


def replayed_datasets(checkpoint: Checkpoint) -> tuple[Replayed, ...]:
    """The earlier datasets, in the order of their training."""
    return tuple(
        Replayed(entry["key"], entry["rows"], entry["sha256"]) for entry in checkpoint.manifest.get("replay", [])
    )


def find_replayed(checkpoint: Checkpoint, row_sha256: str) -> tuple[str, ...]:
    """The datasets of which the row was trained on again, in the order of their training.

    Raises:
        ArtifactInvalid: if rows were, and the file that names them cannot be read.
    """
    if not checkpoint.manifest.get("replay"):
        return ()
    path = checkpoint.folder / REPLAY_FILE
    try:
        found = pl.scan_parquet(path).filter(pl.col("row_sha256") == row_sha256).select("key").collect()["key"]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactInvalid(f"{path}, which names the rows that were replayed, cannot be read: {error}") from None
    return tuple(found.unique(maintain_order=True))
