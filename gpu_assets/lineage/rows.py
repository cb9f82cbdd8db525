"""Which row is meant: a line of a file or of a dataset, or the first digits of a row's sha256.

A row is its messages or text alone, so the same row may lie in several datasets, under other metadata.
"""

import codecs
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gpu_assets.datasets.names import SIDECAR_SUFFIX
from gpu_assets.datasets.records import (
    Dataset,
    dataset_keys,
    find_dataset,
    standing_refusal,
)
from gpu_assets.datasets.validate import REJECTED_FILE
from gpu_assets.datasets.validated import (
    ROWS_FILE,
    VALIDATED_FOLDER,
    Since,
    read_validated_folder,
    read_versions,
    version_folders,
)
from gpu_assets.errors import ArtifactInvalid, DatasetInvalid, SettingsError
from resources.artifacts import is_complete
from resources.workspace import Workspace
from validators import SpecValidator, content_sha256, read_columns, read_sidecar
from validators.lines import Line, LineReader
from validators.rows import Rejection, RowDecoder, check_line

MIN_PREFIX = 8
Hasher = Callable[[Line], str]


@dataclass(frozen=True)
class Place:
    """Where a row was accepted: a line, from 1, of a dataset's file, among the rows with this sha256.

    `since` says what became of these rows, if they do not stand any more.
    """

    dataset: str
    line: int
    rows_sha256: str
    since: Since | None = None


@dataclass(frozen=True)
class Rejected:
    """Where a row was rejected, by which rule, and what was seen."""

    dataset: str
    line: int
    rule: str
    detail: str


@dataclass(frozen=True)
class RowFound:
    """A row and all that is on disk of it.

    `row_sha256` is None where the line is no row of its schema; `note` says that, or why its file was refused.
    `not_validated` is the line's dataset, where that is not validated now.
    """

    row_sha256: str | None
    accepted: tuple[Place, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    note: str | None = None
    not_validated: str | None = None


def find_row(workspace: Workspace, wanted: str, max_row_bytes: int) -> RowFound:
    """The row that `FILE:LINE`, `KEY:LINE` or a sha256's first digits (at least 8) name.

    Raises:
        SettingsError: if it names none, or several.
        DatasetInvalid: if the file cannot be read or has no schema.
    """
    name, colon, number = wanted.rpartition(":")
    if colon and name and number.isdecimal():
        return _find_line(workspace, name, int(number), max_row_bytes)
    if re.fullmatch(rf"[0-9a-fA-F]{{{MIN_PREFIX},64}}", wanted):
        return _find_hash(workspace, wanted.lower(), max_row_bytes)
    raise SettingsError(
        f"{wanted!r} names no row: give FILE:LINE, a dataset's KEY:LINE, or at least {MIN_PREFIX} digits of a row's "
        "sha256"
    )


def accepted_places(workspace: Workspace, prefix: str) -> dict[str, tuple[Place, ...]]:
    """Where rows whose sha256 begins with `prefix` were accepted, by their whole sha256.

    Also among rows that were withdrawn or replaced since, unless the same rows were accepted again.

    Raises:
        ArtifactInvalid: if a Parquet file, or the manifest beside one with such a row, cannot be read.
    """
    found: defaultdict[str, list[Place]] = defaultdict(list)
    rows = _accepted_rows(version_folders(workspace), pl.col("row_sha256").str.starts_with(prefix))
    keys = {read_validated_folder(Path(folder)).key for folder in rows["folder"].unique()}
    versions = {str(version.folder): version for key in keys for version in read_versions(workspace, key)}
    for sha256, line, folder in rows.iter_rows():
        version = versions[folder]
        if Place(version.key, line, version.rows_sha256) not in found[sha256]:
            found[sha256].append(Place(version.key, line, version.rows_sha256, version.since))
    return {sha256: tuple(places) for sha256, places in found.items()}


def _accepted_rows(folders: Sequence[Path], wanted: pl.Expr) -> pl.DataFrame:
    """The sha256, the line and the folder of those of the accepted rows, in the order of the folders.

    Raises:
        ArtifactInvalid: if a Parquet file cannot be read.
    """
    schema = {"row_sha256": pl.String, "line": pl.Int64, "folder": pl.String}
    scans = [pl.LazyFrame(schema=schema)]
    for folder in folders:
        matching = pl.scan_parquet(folder / ROWS_FILE).filter(wanted).with_columns(folder=pl.lit(str(folder)))
        scans.append(matching.select(pl.col(name).cast(dtype) for name, dtype in schema.items()))
    try:
        return pl.concat(scans).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ArtifactInvalid(f"a validated dataset cannot be read, and may hold the row: {error}") from None


def _find_line(workspace: Workspace, name: str, number: int, max_row_bytes: int) -> RowFound:
    path, dataset = Path(name), None
    if path.is_file():
        dataset = _taken_in(workspace, path)
        beside = path.with_name(f"{path.name}{SIDECAR_SUFFIX}")
        sidecar = (beside if beside.is_file() else None) if dataset is None else dataset.sidecar_path
    elif name in dataset_keys(workspace):
        dataset = find_dataset(workspace, name)
        path, sidecar = dataset.data_path, dataset.sidecar_path
    else:
        raise SettingsError(f"{name!r} is neither a file nor the key of a dataset; `gpu-assets queue list` shows keys")
    with LineReader(path) as reader:
        line = next((line for line in reader.lines(max_row_bytes) if line.number == number), None)
    if line is None:
        raise SettingsError(f"{name} has no line {number}")
    rejected = () if dataset is None else tuple(_rejected(workspace, dataset, {number}))
    not_validated = None if dataset is None or is_complete(dataset.folder / VALIDATED_FOLDER) else dataset.key
    try:
        accepted_as = [] if dataset is None else _accepted_as(workspace, dataset, number)
        hashes = accepted_as or [_hasher(path, sidecar, max_row_bytes)(line)]
    except (DatasetInvalid, Rejection) as error:
        return RowFound(None, rejected=rejected, note=f"line {number} is no row: {error}", not_validated=not_validated)
    places = tuple(place for sha256 in hashes for place in accepted_places(workspace, sha256).get(sha256, ()))
    refused = None if dataset is None or not_validated is None else _refused(dataset)
    return RowFound(hashes[0], places, rejected, refused, not_validated)


def _accepted_as(workspace: Workspace, dataset: Dataset, number: int) -> list[str]:
    """The sha256 under which the dataset's line was accepted: now, then before; another schema makes another."""
    rows = _accepted_rows(version_folders(workspace, dataset.key), pl.col("line") == number)
    return list(dict.fromkeys(rows["row_sha256"]))


def _taken_in(workspace: Workspace, path: Path) -> Dataset | None:
    """The dataset with the content of the file; its key ends with the first digits of that."""
    with LineReader(path) as reader:
        sha256 = reader.sha256()
    keys = (key for key in dataset_keys(workspace) if key.endswith(f"-{sha256[:8]}"))
    return next((found for key in keys if (found := find_dataset(workspace, key)).sha256 == sha256), None)


def _find_hash(workspace: Workspace, prefix: str, max_row_bytes: int) -> RowFound:
    found = accepted_places(workspace, prefix)
    rejected, passed_over = ({}, []) if found else _rejected_hashes(workspace, prefix, max_row_bytes)
    note = f"not looked at, and may hold it: {'; '.join(passed_over)}" if passed_over else None
    hashes = sorted(found.keys() | rejected.keys())
    if not hashes:
        nothing = f"no accepted and no rejected row has a sha256 that begins with {prefix}"
        raise SettingsError(nothing if note is None else f"{nothing}; {note}")
    if len(hashes) > 1:
        raise SettingsError(f"{len(hashes)} rows have a sha256 that begins with {prefix}; give more digits of one")
    return RowFound(hashes[0], found.get(hashes[0], ()), tuple(rejected.get(hashes[0], ())), note)


def _rejected_hashes(
    workspace: Workspace, prefix: str, max_row_bytes: int
) -> tuple[dict[str, list[Rejected]], list[str]]:
    """Rejected rows by their sha256, and a sentence for each dataset that cannot be read.

    Quarantine keeps no hashes, so the lines are read and hashed again.
    """
    found: defaultdict[str, list[Rejected]] = defaultdict(list)
    passed_over = []
    keys = set(dataset_keys(workspace))
    for path in sorted(workspace.quarantine.glob(f"*/{REJECTED_FILE}")):
        if path.parent.name not in keys:
            continue
        try:
            dataset = find_dataset(workspace, path.parent.name)
            for sha256, entry in _hash_rejected(workspace, dataset, prefix, max_row_bytes):
                found[sha256].append(entry)
        except (ArtifactInvalid, DatasetInvalid) as error:
            passed_over.append(str(error))
    return dict(found), passed_over


def _hash_rejected(
    workspace: Workspace, dataset: Dataset, prefix: str, max_row_bytes: int
) -> Iterator[tuple[str, Rejected]]:
    """The dataset's rejected rows whose sha256 begins so.

    Raises:
        ArtifactInvalid: if quarantine holds something else.
        DatasetInvalid: if the data cannot be read, or has no schema.
    """
    rejected = {entry.line: entry for entry in _rejected(workspace, dataset)}
    hash_line = _hasher(dataset.data_path, dataset.sidecar_path, max_row_bytes)
    with LineReader(dataset.data_path) as reader:
        for line in reader.lines(max_row_bytes):
            if line.number in rejected and (sha256 := _hash_or_none(hash_line, line, prefix)) is not None:
                yield sha256, rejected[line.number]


def _hash_or_none(hash_line: Hasher, line: Line, prefix: str) -> str | None:
    """The line's sha256 if it is a row and begins so."""
    try:
        sha256 = hash_line(line)
    except Rejection:
        return None
    return sha256 if sha256.startswith(prefix) else None


def _hasher(path: Path, sidecar: Path | None, max_row_bytes: int) -> Hasher:
    """What hashes a line of the file as validation does.

    Raises:
        DatasetInvalid: if no schema fits the file.
    """
    named = read_sidecar(sidecar, None if sidecar is None else sidecar.name).schema_id
    spec = SpecValidator().choose(named, read_columns(path, max_row_bytes)).spec
    decoder = RowDecoder(spec)

    def hash_line(line: Line) -> str:
        check_line(line, max_row_bytes)
        without_mark = line.data.removeprefix(codecs.BOM_UTF8) if line.number == 1 else line.data
        return content_sha256(decoder.decode(line._replace(data=without_mark)), spec.kind)

    return hash_line


def _rejected(workspace: Workspace, dataset: Dataset, lines: set[int] | None = None) -> Iterator[Rejected]:
    """What quarantine holds of the dataset's rows, of those lines or of all.

    Raises:
        ArtifactInvalid: if it holds something else.
    """
    path = workspace.quarantine / dataset.key / REJECTED_FILE
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for text in file:
            try:
                entry = json.loads(text)
                found = Rejected(dataset.key, entry["line"], entry["reason"], entry["detail"])
            except (ValueError, KeyError, TypeError) as error:
                raise ArtifactInvalid(f"{path} is not what the gates write: {error!r}; validate it again") from None
            if lines is None or found.line in lines:
                yield found


def _refused(dataset: Dataset) -> str | None:
    refusal = standing_refusal(dataset.folder)
    return None if refusal is None else f"its file was refused: {refusal.sentence}"
