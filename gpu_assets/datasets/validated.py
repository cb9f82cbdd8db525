"""What the gates let pass, as the later stages read it.

`datasets/<key>/validated/` holds a dataset's accepted rows as `rows.parquet`, the content gate's `report.json`, and
`manifest.json`. Rows that were accepted and are not any more, since a gate refused the dataset or let other rows pass,
are kept in `quarantine/<key>/withdrawn/<first 8 digits of rows_sha256>/`: a model may have been trained on them.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import polars as pl

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import MANIFEST_FILE, is_complete, publishing, read_manifest
from resources.workspace import Workspace
from validators import VALIDATORS

VALIDATED_KIND = "validated_dataset"
VALIDATED_FOLDER = "validated"
WITHDRAWN_FOLDER = "withdrawn"
ROWS_FILE = "rows.parquet"
REPORT_FILE = "report.json"
Since = Literal["replaced", "withdrawn"]
"""What became of accepted rows: others were accepted in their place, or a gate refused the dataset."""


@dataclass(frozen=True)
class ValidatedDataset:
    """A dataset that passed both gates, read from its manifest; `since` is None if it stands."""

    key: str
    folder: Path
    rows_sha256: str
    rows: int
    rejected: int
    schema: str
    generator_id: str
    generator_version: str | None
    manifest: dict[str, Any]
    since: Since | None = None

    @property
    def rows_path(self) -> Path:
        return self.folder / ROWS_FILE

    @property
    def headline(self) -> str:
        """The content gate's sentence."""
        return str(self.manifest["headline"])

    @cached_property
    def report(self) -> dict[str, Any]:
        """The content gate's report, as JSON.

        Raises:
            ArtifactInvalid: if there is none, or it is no JSON object.
        """
        path = self.folder / REPORT_FILE
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactInvalid(f"{path} cannot be read: {error}; validate {self.key} again") from None
        if not isinstance(report, dict):
            raise ArtifactInvalid(f"{path} is a {type(report).__name__}, wanted a JSON object; validate it again")
        return report


def read_validated(workspace: Workspace, key: str) -> ValidatedDataset:
    """The validated dataset of a key.

    Raises:
        ArtifactInvalid: if the dataset is not validated.
    """
    return read_validated_folder(workspace.datasets / key / VALIDATED_FOLDER)


def version_folders(workspace: Workspace, key: str = "*") -> list[Path]:
    """Where accepted rows are kept, of one dataset or of all: first those that stand, then those that did."""
    standing = sorted(workspace.datasets.glob(f"{key}/{VALIDATED_FOLDER}"))
    earlier = sorted(workspace.quarantine.glob(f"{key}/{WITHDRAWN_FOLDER}/[!.]*"))
    return [folder for folder in (*standing, *earlier) if is_complete(folder)]


def read_versions(workspace: Workspace, key: str) -> list[ValidatedDataset]:
    """The dataset as it is validated now, and as it was with other rows or before a gate refused it.

    Raises:
        ArtifactInvalid: if a manifest is not what the gates write.
    """
    versions = [read_validated_folder(folder) for folder in version_folders(workspace, key)]
    stands = is_complete(workspace.datasets / key / VALIDATED_FOLDER)
    since: Since = "replaced" if stands else "withdrawn"
    return [found if found.folder.name == VALIDATED_FOLDER else replace(found, since=since) for found in versions]


def keep_replaced(workspace: Workspace, key: str, rows_sha256: str) -> None:
    """Copy the accepted rows as they stand, if those that are about to replace them are others.

    What has no manifest that can be read is not kept.
    """
    standing = workspace.datasets / key / VALIDATED_FOLDER
    kept = _kept_folder(workspace, key)
    if kept is None or kept == _version_folder(workspace, key, rows_sha256) or is_complete(kept):
        return
    with publishing(kept) as temporary:
        shutil.copytree(standing, temporary, dirs_exist_ok=True)


def keep_withdrawn(workspace: Workspace, key: str) -> None:
    """Move the accepted rows away, so that they are not trained on any more."""
    standing = workspace.datasets / key / VALIDATED_FOLDER
    kept = _kept_folder(workspace, key)
    if kept is None:
        shutil.rmtree(standing, ignore_errors=True)
        return
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    standing.rename(kept)


def drop_kept(workspace: Workspace, key: str, rows_sha256: str) -> None:
    """Remove the copy of rows that stand again."""
    shutil.rmtree(_version_folder(workspace, key, rows_sha256), ignore_errors=True)


def read_validated_folder(folder: Path) -> ValidatedDataset:
    """The validated dataset in `datasets/<key>/validated/`, or in a folder that is kept of an earlier version.

    Raises:
        ArtifactInvalid: if there is none, or its manifest is not what the gates write.
    """
    manifest = read_manifest(folder, VALIDATED_KIND)
    key = folder.parent.parent.name if folder.parent.name == WITHDRAWN_FOLDER else folder.parent.name
    try:
        return ValidatedDataset(
            key=key,
            folder=folder,
            rows_sha256=manifest["rows_sha256"],
            rows=manifest["accepted"],
            rejected=manifest["rejected"],
            schema=manifest["schema"],
            generator_id=manifest["generator"]["id"],
            generator_version=manifest["generator"]["version"],
            manifest=manifest,
        )
    except (KeyError, TypeError) as error:
        raise ArtifactInvalid(
            f"the manifest of {folder} is not what the gates write ({error!r}); validate {key} again"
        ) from None


def problem_keys(rows_path: Path) -> frozenset[str]:
    """The skill problems in the accepted rows of one validated dataset."""
    metadata = pl.col("metadata")
    key = metadata.str.json_path_match("$.problem_key")
    rows = pl.scan_parquet(rows_path).select(metadata, key.alias("key")).collect()
    # Numbers and depths that polars' parser gives up on, and names that are written with escapes.
    unread = rows.filter(pl.col("key").is_null() & metadata.str.contains(r"problem_key|\\u"))["metadata"]
    found = (json.loads(text).get("problem_key") for text in unread)
    return frozenset(rows["key"].drop_nulls()) | {key for key in found if isinstance(key, str)}


def trained_problem_keys(workspace: Workspace) -> frozenset[str]:
    """The skill problems in all accepted rows of all validated datasets."""
    files = workspace.datasets.glob(f"*/{VALIDATED_FOLDER}/{ROWS_FILE}")
    return frozenset().union(*(problem_keys(file) for file in files))


def up_to_date(workspace: Workspace, materialized: Iterable[str]) -> set[str]:
    """Those of the keys that the gates' present versions let pass, as far as the disk tells."""
    return {key for key in materialized if not _is_outdated(workspace, key)}


def _version_folder(workspace: Workspace, key: str, rows_sha256: str) -> Path:
    return workspace.quarantine / key / WITHDRAWN_FOLDER / rows_sha256[:8]


def _kept_folder(workspace: Workspace, key: str) -> Path | None:
    """Where the rows that stand are kept when they do not any more; None if there are none, or not to be read."""
    try:
        return _version_folder(workspace, key, read_validated(workspace, key).rows_sha256)
    except ArtifactInvalid:
        return None


def _is_outdated(workspace: Workspace, key: str) -> bool:
    """Whether a dataset was let pass by other versions of the gates, or withdrawn since."""
    validated = workspace.datasets / key / VALIDATED_FOLDER
    manifest = validated / MANIFEST_FILE
    if not manifest.is_file():
        interrupted = any(validated.parent.glob(f".{VALIDATED_FOLDER}.*"))  # Between the renames of `publishing`.
        return interrupted or bool(version_folders(workspace, key))
    return _validators_of(manifest, manifest.stat().st_mtime_ns) not in (None, VALIDATORS)


@lru_cache(maxsize=100_000)
def _validators_of(manifest: Path, _mtime_ns: int) -> dict[str, str] | None:
    try:
        return read_manifest(manifest.parent, VALIDATED_KIND).get("validators")
    except ArtifactInvalid:
        return None
