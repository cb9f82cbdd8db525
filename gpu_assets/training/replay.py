"""Rows of earlier datasets that are trained on again, against forgetting.

Which ones follows from the parent's weights, the seed and each row's hash: the same plan replays the same rows, the
next one others, and no order of files matters.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence

import polars as pl

from gpu_assets.datasets.validated import read_validated
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import Hyperparams
from gpu_assets.training.records import Checkpoint, Parent, ReplayedRows, TrainingDataset
from resources.workspace import Workspace

HASH_COLUMN = "row_sha256"


def plan_replay(
    workspace: Workspace,
    line: Sequence[Checkpoint],
    parent: Parent,
    own: Sequence[TrainingDataset],
    hyperparams: Hyperparams,
) -> tuple[ReplayedRows, ...]:
    """`replay_share` times the number of own rows, of the datasets that the parent and those before it were trained on.

    Datasets that are not on the disk any more, and those that are trained on anyway, give none; so the first
    training of a line has nothing to replay.

    Raises:
        ArtifactInvalid: if a validated dataset's rows cannot be read.
    """
    count = round(hyperparams.replay_share * sum(dataset.rows for dataset in own))
    if not count:
        return ()
    earlier = _still_there(workspace, earlier_keys(line, parent), {dataset.key for dataset in own})
    return choose(earlier, count, f"{hyperparams.seed}:{parent.weights_sha256}")


def earlier_keys(line: Iterable[Checkpoint], parent: Parent) -> list[str]:
    """The datasets of the parent and its ancestors, the oldest first, each once."""
    by_weights = {checkpoint.weights_sha256: checkpoint for checkpoint in line}
    descent: list[Checkpoint] = []
    weights = parent.weights_sha256
    while (checkpoint := by_weights.get(weights)) is not None and checkpoint not in descent:
        descent.append(checkpoint)
        weights = checkpoint.parent_sha256
    return list(dict.fromkeys(key for checkpoint in reversed(descent) for key in checkpoint.dataset_keys))


def choose(datasets: Sequence[TrainingDataset], count: int, salt: str) -> tuple[ReplayedRows, ...]:
    """At most `count` of the datasets' rows, those whose salted hash is smallest; equal rows count once."""
    owner: dict[str, TrainingDataset] = {}
    for dataset in datasets:
        for row in _row_hashes(dataset):
            owner.setdefault(row, dataset)
    ranked = sorted(owner, key=lambda row: hashlib.sha256(f"{salt}:{row}".encode()).digest())
    chosen: dict[str, list[str]] = {}
    for row in ranked[:count]:
        chosen.setdefault(owner[row].key, []).append(row)
    return tuple(
        ReplayedRows(dataset.key, dataset.rows_path, dataset.rows_sha256, tuple(sorted(chosen[dataset.key])))
        for dataset in datasets
        if dataset.key in chosen
    )


def _still_there(workspace: Workspace, keys: Iterable[str], own: Collection[str]) -> list[TrainingDataset]:
    found = []
    for key in keys:
        if key in own:
            continue
        try:
            validated = read_validated(workspace, key)
        except ArtifactInvalid:  # removed since: what is gone cannot be replayed
            continue
        found.append(TrainingDataset(key, validated.rows_path, validated.rows_sha256, validated.rows))
    return found


def _row_hashes(dataset: TrainingDataset) -> list[str]:
    try:
        return pl.read_parquet(dataset.rows_path, columns=[HASH_COLUMN])[HASH_COLUMN].to_list()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactInvalid(
            f"the rows of {dataset.key}, which were trained on before, cannot be read for replay: {error}; validate it "
            "again, or set hyperparams.replay_share to 0"
        ) from None
