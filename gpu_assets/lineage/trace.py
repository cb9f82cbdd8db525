"""Which rows made a model, and which models saw a row, from manifests and Parquet alone.

A checkpoint saw what it was trained on and, by descent, all that its ancestors were trained on.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import polars as pl

from gpu_assets.datasets.records import read_dataset
from gpu_assets.datasets.validated import Since, ValidatedDataset, read_validated, read_versions
from gpu_assets.errors import ArtifactInvalid, SettingsError
from gpu_assets.lineage.replayed import Replayed, find_replayed, replayed_datasets
from gpu_assets.lineage.rows import MIN_PREFIX, RowFound
from gpu_assets.training.line import descent_of, list_checkpoints
from gpu_assets.training.records import Checkpoint
from resources.deployed import read_deployed
from resources.workspace import Workspace

CHANGED = "it was validated again since, and its rows of then are not kept"
GONE = "{} is not on disk any more: whether it saw the row is not known"


@dataclass(frozen=True)
class TrainedOn:
    """A dataset that a checkpoint was trained on.

    `lines` are the ranges of lines in the file whose rows were accepted, both ends included. `fault` says what is
    not known any more, and why; `file_sha256`, `generator` and `lines` may then be missing. `since` says what became of
    the rows, if they do not stand any more.
    """

    key: str
    rows: int
    rows_sha256: str
    file_sha256: str | None = None
    original_name: str | None = None
    generator: str | None = None
    lines: tuple[tuple[int, int], ...] = ()
    fault: str | None = None
    since: Since | None = None


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint of the descent, the asked one included, with what it was trained on itself.

    `replayed` are rows of its own ancestors' datasets.
    """

    checkpoint: str
    step: int
    weights_sha256: str
    parent: str
    datasets: tuple[TrainedOn, ...]
    replayed: tuple[Replayed, ...] = ()


@dataclass(frozen=True)
class ModelRows:
    """Everything that made a checkpoint, newest first; `base` is where the known descent begins.

    `fault` is None where that is the base model.
    """

    checkpoint: str
    weights_sha256: str
    base: str
    base_weights_sha256: str
    rows: int
    descent: tuple[Ancestor, ...]
    fault: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SeenBy:
    """A checkpoint that saw a row: trained on it in `datasets`, for the first time or again, or by descent from
    `through`, which was.

    With a `doubt` it perhaps saw it; the sentence says what is not known. `datasets` is empty where that is what
    `through`, which is gone, was trained on.
    """

    checkpoint: str
    step: int
    weights_sha256: str
    how: Literal["trained", "replayed", "descent"]
    datasets: tuple[str, ...]
    through: str
    doubt: str | None = None
    deployed: bool = False

    @property
    def dataset(self) -> str | None:
        """The first of them."""
        return next(iter(self.datasets), None)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "dataset": self.dataset}


@dataclass(frozen=True)
class RowTrace:
    """What became of a row."""

    row: RowFound
    checkpoints: tuple[SeenBy, ...]

    @property
    def deployed(self) -> str | None:
        """The deployed checkpoint, if it saw the row, or perhaps did."""
        return next((seen.checkpoint for seen in self.checkpoints if seen.deployed), None)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self.row),
            "checkpoints": [seen.to_json() for seen in self.checkpoints],
            "deployed": self.deployed,
        }


def find_checkpoint(workspace: Workspace, wanted: str) -> Checkpoint:
    """The checkpoint of a name, of a folder's path, of `checkpoint-<step>`, or of the first 8 digits of its weights.

    Raises:
        SettingsError: if it is none, or several.
    """
    published = list_checkpoints(workspace)
    name = wanted.rstrip("/").rsplit("/", 1)[-1]
    found = [checkpoint for checkpoint in published if checkpoint.name == name]
    if not found:
        found = [checkpoint for checkpoint in published if name == f"checkpoint-{checkpoint.step}"]
    if not found and len(wanted) >= MIN_PREFIX:
        found = [checkpoint for checkpoint in published if checkpoint.weights_sha256.startswith(wanted.lower())]
    if len(found) != 1:
        names = ", ".join(checkpoint.name for checkpoint in (found or published)[-10:]) or "none"
        are = "several checkpoints are" if found else "no checkpoint is"
        raise SettingsError(f"{are} {wanted!r}; there are: {names}. Name one, or 8 digits of its weights' sha256")
    return found[0]


def rows_of(workspace: Workspace, checkpoint: Checkpoint) -> ModelRows:
    """All that made the checkpoint, back along its parents to the base model."""
    descent = descent_of(checkpoint, list_checkpoints(workspace))
    base = descent[-1].manifest["parent"]
    fault = None
    if base["kind"] != "base_model":
        fault = f"{base['name']}, the parent of {descent[-1].name}, is not on disk any more: what made it is not known"
    ancestors = tuple(_ancestor(workspace, found) for found in descent)
    return ModelRows(
        checkpoint=checkpoint.name,
        weights_sha256=checkpoint.weights_sha256,
        base=base["name"],
        base_weights_sha256=base["weights_sha256"],
        rows=sum(dataset.rows for ancestor in ancestors for dataset in ancestor.datasets),
        descent=ancestors,
        fault=fault,
    )


def seen_by(workspace: Workspace, row: RowFound) -> RowTrace:
    """Every checkpoint that saw the row, or perhaps did, in the order of publication."""
    published = list_checkpoints(workspace)
    on_disk = {checkpoint.weights_sha256 for checkpoint in published}
    seen = _trained_on(workspace, published, row)
    for checkpoint in published:
        itself = seen.get(checkpoint.weights_sha256)
        inherited = _by_descent(checkpoint, seen.get(checkpoint.parent_sha256), on_disk)
        if inherited is not None and (itself is None or (itself.doubt and not inherited.doubt)):
            seen[checkpoint.weights_sha256] = inherited
    deployed = read_deployed(workspace)
    weights = None if deployed is None else deployed["weights_sha256"]
    order = [seen[found.weights_sha256] for found in published if found.weights_sha256 in seen]
    return RowTrace(row, tuple(replace(found, deployed=found.weights_sha256 == weights) for found in order))


def _by_descent(checkpoint: Checkpoint, parent: SeenBy | None, on_disk: Collection[str]) -> SeenBy | None:
    """What the checkpoint has from its parent; a parent that is gone perhaps saw any row."""
    named = checkpoint.manifest["parent"]
    if parent is None and (named["kind"] == "base_model" or checkpoint.parent_sha256 in on_disk):
        return None
    return SeenBy(
        checkpoint=checkpoint.name,
        step=checkpoint.step,
        weights_sha256=checkpoint.weights_sha256,
        how="descent",
        datasets=() if parent is None else parent.datasets,
        through=named["name"] if parent is None else parent.through,
        doubt=GONE.format(named["name"]) if parent is None else parent.doubt,
    )


def _ancestor(workspace: Workspace, checkpoint: Checkpoint) -> Ancestor:
    return Ancestor(
        checkpoint=checkpoint.name,
        step=checkpoint.step,
        weights_sha256=checkpoint.weights_sha256,
        parent=checkpoint.manifest["parent"]["name"],
        datasets=tuple(_trained_dataset(workspace, entry) for entry in checkpoint.manifest["datasets"]),
        replayed=replayed_datasets(checkpoint),
    )


def _trained_dataset(workspace: Workspace, entry: dict[str, Any]) -> TrainedOn:
    key = entry["key"]
    found = TrainedOn(key, entry["rows"], entry["sha256"])
    try:
        dataset = read_dataset(workspace.datasets / key)
        found = replace(found, file_sha256=dataset.sha256, original_name=dataset.original_name)
    except ArtifactInvalid as error:
        found = replace(found, fault=str(error))
    try:
        validated = _version(workspace, key, entry["sha256"])
        found = replace(
            found,
            file_sha256=found.file_sha256 or validated.manifest.get("dataset_sha256"),
            generator=f"{validated.generator_id}@{validated.generator_version or '?'}",
            since=validated.since,
        )
        if validated.rows_sha256 != entry["sha256"]:
            return replace(found, fault=CHANGED)
        return replace(found, lines=tuple(_ranges(pl.read_parquet(validated.rows_path, columns=["line"])["line"])))
    except (ArtifactInvalid, OSError, pl.exceptions.PolarsError) as error:
        return replace(found, fault=found.fault or str(error))


def _version(workspace: Workspace, key: str, rows_sha256: str) -> ValidatedDataset:
    """The dataset with these rows, standing or kept; if they are not there, as it is now or was last.

    Raises:
        ArtifactInvalid: if it is neither validated nor kept.
    """
    versions = read_versions(workspace, key)
    known = [version for version in versions if version.rows_sha256 == rows_sha256] or versions
    return known[0] if known else read_validated(workspace, key)


def _ranges(lines: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges, both ends included."""
    first = last = None
    for line in lines:
        if first is None or last is None:
            first = line
        elif line != last + 1:
            yield first, last
            first = line
        last = line
    if first is not None and last is not None:
        yield first, last


def _trained_on(workspace: Workspace, published: Sequence[Checkpoint], row: RowFound) -> dict[str, SeenBy]:
    """Weights to the checkpoints that were trained on a dataset with the row.

    Of rows that are there, standing or kept, it is known whether the row is among them. A row of a dataset whose rows
    of then are not there was perhaps accepted then.
    """
    holding = {(place.dataset, place.rows_sha256) for place in row.accepted}
    asked = {key for key, _ in holding} | {entry.dataset for entry in row.rejected} | {row.not_validated}
    kept = {key: {found.rows_sha256 for found in read_versions(workspace, key)} for key in asked if key is not None}
    seen: dict[str, SeenBy] = {}
    for checkpoint in published:
        versions = [(entry["key"], entry["sha256"]) for entry in checkpoint.manifest["datasets"]]
        held = [key for key, sha256 in versions if (key, sha256) in holding]
        lost = [key for key, sha256 in versions if key in kept and sha256 not in kept[key]]
        if held:
            seen[checkpoint.weights_sha256] = _saw_itself(checkpoint, "trained", held)
        elif (again := _saw_again(checkpoint, row)) is not None:
            seen[checkpoint.weights_sha256] = again
        elif lost:
            seen[checkpoint.weights_sha256] = _saw_itself(checkpoint, "trained", lost, CHANGED)
    return seen


def _saw_again(checkpoint: Checkpoint, row: RowFound) -> SeenBy | None:
    """Replayed rows are of the dataset as it was then, which may not be what its first training saw."""
    if row.row_sha256 is None:
        return None
    try:
        keys = find_replayed(checkpoint, row.row_sha256)
    except ArtifactInvalid as error:
        return _saw_itself(checkpoint, "replayed", [found.key for found in replayed_datasets(checkpoint)], str(error))
    return _saw_itself(checkpoint, "replayed", keys) if keys else None


def _saw_itself(
    checkpoint: Checkpoint, how: Literal["trained", "replayed"], datasets: Iterable[str], doubt: str | None = None
) -> SeenBy:
    return SeenBy(
        checkpoint=checkpoint.name,
        step=checkpoint.step,
        weights_sha256=checkpoint.weights_sha256,
        how=how,
        datasets=tuple(datasets),
        through=checkpoint.name,
        doubt=doubt,
    )
