"""What the gates let pass, as the later stages read it.

`datasets/<key>/validated/` holds a dataset's accepted rows as `rows.parquet`, the content gate's `report.json`, and
`manifest.json`. Once a gate refuses the dataset, the same files lie in `quarantine/<key>/withdrawn/`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import MANIFEST_FILE, is_complete, read_manifest
from resources.workspace import Workspace
from validators import VALIDATORS

VALIDATED_KIND = "validated_dataset"
VALIDATED_FOLDER = "validated"
WITHDRAWN_FOLDER = "withdrawn"
ROWS_FILE = "rows.parquet"
REPORT_FILE = "report.json"


@dataclass(frozen=True)
class ValidatedDataset:
    """A dataset that passed both gates, read from its manifest."""

    key: str
    folder: Path
    rows_sha256: str
    rows: int
    rejected: int
    schema: str
    generator_id: str
    generator_version: str | None
    manifest: dict[str, Any]

    @property
    def rows_path(self) -> Path:
        return self.folder / ROWS_FILE

    @property
    def is_withdrawn(self) -> bool:
        """Whether a gate refused the dataset since."""
        return self.folder.name == WITHDRAWN_FOLDER

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
    return read_validated_folder(_folders(workspace, key)[0])


def read_versions(workspace: Workspace, key: str) -> list[ValidatedDataset]:
    """The dataset as it is validated now, and as it was before a gate refused it; of each what is there.

    Raises:
        ArtifactInvalid: if a manifest is not what the gates write.
    """
    return [read_validated_folder(folder) for folder in _folders(workspace, key) if is_complete(folder)]


def read_validated_folder(folder: Path) -> ValidatedDataset:
    """The validated dataset in `datasets/<key>/validated/`, or the withdrawn one in `quarantine/<key>/withdrawn/`.

    Raises:
        ArtifactInvalid: if there is none, or its manifest is not what the gates write.
    """
    manifest = read_manifest(folder, VALIDATED_KIND)
    try:
        return ValidatedDataset(
            key=folder.parent.name,
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
            f"the manifest of {folder} is not what the gates write ({error!r}); validate {folder.parent.name} again"
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


def _folders(workspace: Workspace, key: str) -> tuple[Path, Path]:
    return workspace.datasets / key / VALIDATED_FOLDER, workspace.quarantine / key / WITHDRAWN_FOLDER


def _is_outdated(workspace: Workspace, key: str) -> bool:
    """Whether a dataset was let pass by other versions of the gates, or withdrawn since."""
    validated, withdrawn = _folders(workspace, key)
    manifest = validated / MANIFEST_FILE
    if not manifest.is_file():
        interrupted = any(validated.parent.glob(f".{VALIDATED_FOLDER}.*"))  # Between the renames of `publishing`.
        return interrupted or withdrawn.exists()
    return _validators_of(manifest, manifest.stat().st_mtime_ns) not in (None, VALIDATORS)


@lru_cache(maxsize=100_000)
def _validators_of(manifest: Path, _mtime_ns: int) -> dict[str, str] | None:
    try:
        return read_manifest(manifest.parent, VALIDATED_KIND).get("validators")
    except ArtifactInvalid:
        return None
