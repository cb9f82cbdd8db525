"""Rows of earlier datasets that are trained on again, against forgetting.

Which ones follows from the parent's weights, the seed and each row's hash: the same plan replays the same rows, the
next one others, and no order of files matters.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import polars as pl

from gpu_assets.datasets.validated import read_validated
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Hyperparams
from gpu_assets.training.line import descent_of
from gpu_assets.training.records import Checkpoint, Parent, ReplayedRows, TrainingDataset
from gpu_assets.training.samples import fit_rows
from resources.workspace import Workspace

HASH_COLUMN = "row_sha256"


def plan_replay(
    workspace: Workspace,
    line: Sequence[Checkpoint],
    parent: Parent,
    own: Sequence[TrainingDataset],
    hyperparams: Hyperparams,
    renderer: Renderer,
    report: Callable[[str], None],
) -> tuple[ReplayedRows, ...]:
    """`replay_share` times the number of own rows, of the datasets that the parent and those before it were trained on.

    Datasets that are not on the disk any more, and those that are trained on anyway, give none; so the first
    training of a line has nothing to replay. Rows that the present profile or `max_length` does not take, since
    they were accepted under another, are passed over for others, and that is said.

    Raises:
        ArtifactInvalid: if a validated dataset's rows cannot be read.
    """
    count = round(hyperparams.replay_share * sum(dataset.rows for dataset in own))
    if not count:
        return ()
    earlier = _still_there(workspace, earlier_keys(line, parent), {dataset.key for dataset in own})
    passed_over: Counter[str] = Counter()

    def fit(rows: ReplayedRows) -> frozenset[str]:
        found = fit_rows(rows, renderer, hyperparams.max_length)
        passed_over[rows.key] += rows.rows - len(found)
        return found

    replay = choose(earlier, count, f"{hyperparams.seed}:{parent.weights_sha256}", fit)
    for key, unfit in (+passed_over).items():
        report(
            f"{unfit} rows of {key} are not replayed: profile {renderer.profile.name} or max_length does not take them"
        )
    return replay


def earlier_keys(line: Sequence[Checkpoint], parent: Parent) -> list[str]:
    """The datasets of the parent and its ancestors, the oldest first, each once."""
    newest = next((found for found in reversed(line) if found.weights_sha256 == parent.weights_sha256), None)
    descent = [] if newest is None else descent_of(newest, line)
    return list(dict.fromkeys(key for checkpoint in reversed(descent) for key in checkpoint.dataset_keys))


def choose(
    datasets: Sequence[TrainingDataset], count: int, salt: str, fit: Callable[[ReplayedRows], Collection[str]]
) -> tuple[ReplayedRows, ...]:
    """At most `count` of the datasets' rows that are fit, those whose salted hash is smallest; equal rows count once.

    Args:
        fit: the hashes of those of the rows that can be trained on.
    """
    owner: dict[str, TrainingDataset] = {}
    for dataset in datasets:
        for row in _row_hashes(dataset):
            owner.setdefault(row, dataset)
    ranked = sorted(owner, key=lambda row: hashlib.sha256(f"{salt}:{row}".encode()).digest())
    chosen: list[str] = []
    for start, stop in _stretches(len(ranked), count):
        wanted = count - len(chosen)
        if not wanted:
            break
        asked = _by_dataset(datasets, ranked[start:stop], owner)
        found = {row for rows in asked for row in fit(rows)}
        chosen.extend([row for row in ranked[start:stop] if row in found][:wanted])
    return _by_dataset(datasets, chosen, owner)


def _stretches(total: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, max(1, size)):
        yield start, min(start + size, total)


def _by_dataset(
    datasets: Sequence[TrainingDataset], rows: Iterable[str], owner: Mapping[str, TrainingDataset]
) -> tuple[ReplayedRows, ...]:
    of: dict[str, list[str]] = {}
    for row in rows:
        of.setdefault(owner[row].key, []).append(row)
    return tuple(
        ReplayedRows(dataset.key, dataset.rows_path, dataset.rows_sha256, tuple(sorted(of[dataset.key])))
        for dataset in datasets
        if dataset.key in of
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
