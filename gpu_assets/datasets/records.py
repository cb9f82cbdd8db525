"""What the intake writes and the later stages read, as values.

`datasets/<key>/` holds `data.jsonl`, `sidecar.json` where one came with it, and `manifest.json`,
written last. `refusal.json` is written by the run whose gate refused the content, `skip.json` by a
person who does not want it trained, `retry.json` by whatever opens the dataset again.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from gpu_assets.errors import ArtifactInvalid, SettingsError
from gpu_assets.settings import Priority
from resources.artifacts import is_complete, read_manifest, sha256_file, write_json
from resources.clock import utc_now
from resources.workspace import PRIORITIES, Workspace

DATASET_KIND = "dataset"
REFUSAL_KIND = "refusal"
DATA_FILE = "data.jsonl"
SIDECAR_FILE = "sidecar.json"
REFUSAL_FILE = "refusal.json"
SKIP_FILE = "skip.json"
RETRY_FILE = "retry.json"
DUPLICATES_FILE = "duplicates.jsonl"
DUPLICATES_FOLDER = "duplicates"
DATASETS_PARTITIONS = "datasets"
"""Name of the dynamic partitions, one a dataset."""

MAX_FAILURES = 3
"""Failed runs over a dataset after which it waits for a person."""

PrioritySource = Literal["folder", "sidecar", "default"]


@dataclass(frozen=True)
class Dataset:
    """A dataset that was taken in, read from its manifest.

    `refused` is the sentence of an inbox entry that could not be taken in: there is no data then,
    and `sha256` is that of the entry's name, kind and target instead of its content's.
    """

    key: str
    folder: Path
    data_path: Path
    sidecar_path: Path | None
    sha256: str
    size_bytes: int
    priority: Priority
    priority_source: PrioritySource
    original_name: str
    inbox_path: str
    taken_in_at: str
    refused: str | None

    def to_manifest(self) -> dict[str, Any]:
        """The manifest that `read_dataset` reads back."""
        return {
            "kind": DATASET_KIND,
            "format": 1,
            "key": self.key,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "original_name": self.original_name,
            "inbox_path": self.inbox_path,
            "priority": self.priority,
            "priority_source": self.priority_source,
            "taken_in_at": self.taken_in_at,
            "refused": self.refused,
        }


@dataclass(frozen=True)
class Refusal:
    """Why a gate refused a dataset; it stands until the sidecar is another one."""

    sentence: str
    at: str
    validator_versions: dict[str, str]
    sidecar_sha256: str | None
    next_step: str = ""


@dataclass(frozen=True)
class Skip:
    """That a person set the dataset aside, when, and why."""

    at: str
    reason: str


def read_dataset(folder: Path) -> Dataset:
    """The dataset in a folder of `datasets/`.

    Raises:
        ArtifactInvalid: if the folder has no manifest of a dataset, or a field of it is missing or not usable.
    """
    manifest = read_manifest(folder, DATASET_KIND)
    sidecar = folder / SIDECAR_FILE
    try:
        dataset = Dataset(
            key=manifest["key"],
            folder=folder,
            data_path=folder / DATA_FILE,
            sidecar_path=sidecar if sidecar.is_file() else None,
            sha256=manifest["sha256"],
            size_bytes=manifest["size_bytes"],
            priority=manifest["priority"],
            priority_source=manifest["priority_source"],
            original_name=manifest["original_name"],
            inbox_path=manifest["inbox_path"],
            taken_in_at=manifest["taken_in_at"],
            refused=manifest["refused"],
        )
        if dataset.key != folder.name or as_priority(dataset.priority) is None:
            raise ValueError(f"key {dataset.key!r}, priority {dataset.priority!r}")
        if datetime.fromisoformat(dataset.taken_in_at).tzinfo is None:
            raise ValueError(f"taken_in_at {dataset.taken_in_at!r} has no time zone")
    except KeyError as error:
        raise ArtifactInvalid(f"the manifest of {folder} has no {error}: it was not written by the intake") from None
    except (TypeError, ValueError) as error:
        raise ArtifactInvalid(f"the manifest of {folder} is not what the intake writes: {error}; restore it") from None
    return dataset


def find_dataset(workspace: Workspace, key: str) -> Dataset:
    """The dataset of a key.

    Raises:
        SettingsError: if there is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", key) or not is_complete(workspace.datasets / key):
        raise SettingsError(f"no dataset has the key {key!r}; `gpu-assets queue list` shows all keys")
    return read_dataset(workspace.datasets / key)


def dataset_keys(workspace: Workspace) -> list[str]:
    """The keys of all complete datasets, sorted; reads no manifest."""
    if not workspace.datasets.is_dir():
        return []
    folders = (path for path in workspace.datasets.iterdir() if not path.name.startswith("."))
    return sorted(path.name for path in folders if is_complete(path))


def list_datasets(workspace: Workspace) -> list[Dataset]:
    """All datasets, sorted by key.

    Raises:
        ArtifactInvalid: if a manifest cannot be read.
    """
    return [read_dataset(workspace.datasets / key) for key in dataset_keys(workspace)]


def sidecar_sha256(folder: Path) -> str | None:
    """Identity of the dataset's present sidecar; None if it has none.

    Raises:
        ArtifactInvalid: if it cannot be read.
    """
    sidecar = folder / SIDECAR_FILE
    try:
        return sha256_file(sidecar) if sidecar.is_file() else None
    except OSError as error:
        raise ArtifactInvalid(f"sidecar {sidecar} cannot be read ({error.strerror}); restore it") from None


def write_refusal(
    folder: Path, sentence: str, validator_versions: dict[str, str], sidecar: str | None, next_step: str = ""
) -> None:
    """Keep that a gate refused the dataset as it was with the sidecar of this sha256."""
    refusal = {"sentence": sentence, "next_step": next_step, "at": utc_now(), "validator_versions": validator_versions}
    write_json(folder / REFUSAL_FILE, refusal | {"sidecar_sha256": sidecar})


def forget_refusal(folder: Path) -> None:
    """The dataset is not refused, or not any more."""
    (folder / REFUSAL_FILE).unlink(missing_ok=True)


def join_next_step(sentence: str, next_step: str) -> str:
    """Both as one text."""
    return f"{sentence.rstrip('.')}. {next_step}" if next_step else sentence


def standing_refusal(folder: Path) -> Refusal | None:
    """The gate's refusal, if there is one and the sidecar is still the one that was refused.

    Raises:
        ArtifactInvalid: if refusal.json is not what `write_refusal` wrote.
    """
    path = folder / REFUSAL_FILE
    try:
        refusal = Refusal(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise ArtifactInvalid(f"{path} is not a refusal: {error}; `gpu-assets queue retry` removes it") from None
    return refusal if refusal.sidecar_sha256 == sidecar_sha256(folder) else None


def write_skip(folder: Path, reason: str) -> None:
    """Set the dataset aside: it is not trained until it is opened again."""
    write_json(folder / SKIP_FILE, {"at": utc_now(), "reason": reason})


def standing_skip(folder: Path) -> Skip | None:
    """That a person set the dataset aside, or None.

    Raises:
        ArtifactInvalid: if skip.json is not what `write_skip` wrote.
    """
    path = folder / SKIP_FILE
    try:
        return Skip(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise ArtifactInvalid(f"{path} is not a skip: {error}; `gpu-assets queue retry` removes it") from None


def reopen(folder: Path) -> None:
    """Let the dataset be tried again: only failures after now count."""
    write_json(folder / RETRY_FILE, {"at": datetime.now(UTC).isoformat(timespec="microseconds")})


def open_since(dataset: Dataset) -> datetime:
    """Since when failures count: the last `reopen`, else the taking in.

    Raises:
        ArtifactInvalid: if retry.json is not what `reopen` wrote.
    """
    path = dataset.folder / RETRY_FILE
    try:
        return datetime.fromisoformat(json.loads(path.read_text(encoding="utf-8"))["at"])
    except FileNotFoundError:
        return datetime.fromisoformat(dataset.taken_in_at)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactInvalid(f"{path} is not a retry stamp: {error}; `gpu-assets queue retry` replaces it") from None


def as_priority(value: object) -> Priority | None:
    """The value if it is a priority."""
    return cast(Priority, value) if value in PRIORITIES else None
