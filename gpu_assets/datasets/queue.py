"""The queue as people see and change it: what waits, adding files, priorities, retries.

Knows nothing of Dagster: what is materialized, open and failed comes in as `QueueFacts`.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpu_assets.datasets.names import DATA_SUFFIX, MAX_NAME_BYTES, SIDECAR_SUFFIX, display, free_name
from gpu_assets.datasets.records import (
    MAX_FAILURES,
    REFUSAL_FILE,
    Dataset,
    find_dataset,
    list_datasets,
    reopen,
    standing_refusal,
)
from gpu_assets.datasets.scan import scan
from gpu_assets.errors import IntakeRefused, SettingsError
from gpu_assets.settings import Priority
from resources.artifacts import write_json
from resources.workspace import PRIORITIES, Workspace

State = Literal["waiting", "taking in", "validated", "trained", "refused", "failed"]
MAX_DATA_NAME_BYTES = MAX_NAME_BYTES - len(SIDECAR_SUFFIX)


@dataclass(frozen=True)
class QueueFacts:
    """What Dagster knows of datasets, by key; empty where a home has no instance yet.

    `failures` counts failed runs since the dataset was opened last, `rows` the accepted rows.
    """

    validated: Collection[str] = ()
    trained: Collection[str] = ()
    taking_in: Collection[str] = ()
    failures: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class QueueRow:
    """One line of `queue list`; `sentence` says what a person should know or do."""

    key: str
    priority: Priority
    state: State
    rows: int | None
    size_bytes: int
    taken_in_at: str
    original_name: str
    sentence: str


def list_queue(workspace: Workspace, facts: QueueFacts) -> list[QueueRow]:
    """All datasets: by priority, then in the order of their taking in.

    Raises:
        ArtifactInvalid: if a manifest or a refusal cannot be read.
    """
    rows = [describe(dataset, facts) for dataset in list_datasets(workspace)]
    return sorted(rows, key=lambda row: (PRIORITIES.index(row.priority), row.taken_in_at, row.key))


def list_inbox(workspace: Workspace) -> list[str]:
    """What lies in the inbox and is not taken in yet, by path inside it."""
    found = scan(workspace.inbox)
    paths = [entry.path.relative_to(workspace.inbox) for entry in (*found.entries, *found.lone_sidecars)]
    return sorted(display(str(path)) for path in paths)


def describe(dataset: Dataset, facts: QueueFacts) -> QueueRow:
    """A dataset's state: trained before validated, validated before refused."""
    state, sentence = _state(dataset, facts)
    return QueueRow(
        dataset.key,
        dataset.priority,
        state,
        facts.rows.get(dataset.key),
        dataset.size_bytes,
        dataset.taken_in_at,
        dataset.original_name,
        sentence,
    )


def _state(dataset: Dataset, facts: QueueFacts) -> tuple[State, str]:
    key = dataset.key
    has_failed = facts.failures.get(key, 0) >= MAX_FAILURES
    failed = f"failed {facts.failures.get(key, 0)} times; see its runs in Dagster, then `gpu-assets queue retry {key}`"
    if key in facts.trained:
        return "trained", ""
    if key in facts.validated:
        return ("failed", failed) if has_failed else ("validated", "")
    if dataset.refused is not None:
        return "refused", dataset.refused
    if key in facts.taking_in:
        return "taking in", ""
    refusal = standing_refusal(dataset.folder)
    if refusal is not None:
        return "refused", refusal.sentence
    return ("failed", failed) if has_failed else ("waiting", "")


def add_files(
    workspace: Workspace, files: Sequence[Path], priority: Priority | None = None, schema_id: str | None = None
) -> list[Path]:
    """Copy files with their sidecars into the inbox, so that the sensor sees each whole or not at all.

    All are looked at before the first is copied. A name that is taken is numbered, one that is too
    long is shortened.

    Args:
        priority: the inbox folder; None leaves it to the sidecar.
        schema_id: written into the sidecar; one is made where there is none.

    Returns:
        The paths in the inbox.

    Raises:
        IntakeRefused: if a path is not a regular file named *.jsonl, its sidecar contradicts `schema_id`,
            or it cannot be copied.
    """
    try:
        sidecars = {file: _sidecar_content(file, schema_id) for file in files}
        folder = workspace.inbox / priority if priority else workspace.inbox
        folder.mkdir(parents=True, exist_ok=True)
        return [_add(folder, file, sidecar) for file, sidecar in sidecars.items()]
    except OSError as error:
        raise IntakeRefused(f"the inbox {workspace.inbox} does not take the files: {error}") from None


def set_priority(workspace: Workspace, key: str, priority: Priority, trained: Collection[str]) -> Dataset:
    """Change the priority of a dataset that is not trained yet; runs that are queued already keep theirs.

    Raises:
        SettingsError: if no dataset has the key, or it was trained.
    """
    dataset = find_dataset(workspace, key)
    if key in trained:
        raise SettingsError(f"{key} was trained already; its priority decides nothing any more")
    write_json(dataset.folder / "manifest.json", dataset.to_manifest() | {"priority": priority})
    return find_dataset(workspace, key)


def retry(workspace: Workspace, key: str, scored: Collection[str]) -> Dataset:
    """Let a refused or failed dataset be tried again: its refusal and its failures are forgotten.

    Raises:
        SettingsError: if no dataset has the key, its checkpoint is scored, or the inbox refused it.
    """
    dataset = find_dataset(workspace, key)
    if key in scored:
        raise SettingsError(f"{key} was trained and its checkpoint scored; there is nothing to try again")
    if dataset.refused is not None:
        raise SettingsError(f"{key} has no data to try again: {dataset.refused}")
    reopen(dataset.folder)
    (dataset.folder / REFUSAL_FILE).unlink(missing_ok=True)
    return dataset


def _add(folder: Path, file: Path, sidecar: bytes | None) -> Path:
    """The sidecar comes first: alone it waits, while data alone would be taken in without it."""
    target = folder / free_name(folder, file.name, max_bytes=MAX_DATA_NAME_BYTES)
    if sidecar is not None:
        _drop(target.with_name(target.name + SIDECAR_SUFFIX), sidecar)
    _drop(target, file)
    return target


def _sidecar_content(file: Path, schema_id: str | None) -> bytes | None:
    """The sidecar's bytes, unchanged unless `schema_id` is to be added."""
    if not file.is_file() or not file.name.endswith(DATA_SUFFIX):
        seen = "a directory" if file.is_dir() else "a file of another name" if file.exists() else "not there"
        raise IntakeRefused(f"{display(str(file))} is {seen}; wanted: a regular file named *{DATA_SUFFIX}")
    sidecar = file.with_name(file.name + SIDECAR_SUFFIX)
    can_exist = len(os.fsencode(sidecar.name)) <= MAX_NAME_BYTES
    content = sidecar.read_bytes() if can_exist and sidecar.is_file() else None
    return content if schema_id is None else _with_schema(sidecar, content, schema_id)


def _with_schema(sidecar: Path, content: bytes | None, schema_id: str) -> bytes:
    try:
        fields: Any = json.loads(content) if content is not None else {}
    except ValueError as error:
        raise IntakeRefused(f"{display(str(sidecar))} is not JSON: {error}; correct it or leave --schema out") from None
    if not isinstance(fields, dict):
        raise IntakeRefused(f"{display(str(sidecar))} holds a {type(fields).__name__}, wanted: a JSON object")
    named = fields.get("schema_id", schema_id)
    if named != schema_id:
        raise IntakeRefused(
            f"{display(str(sidecar))} names the schema {named!r} and --schema {schema_id!r}: leave one of them out"
        )
    return json.dumps(fields | {"schema_id": schema_id}, indent=2).encode()


def _drop(target: Path, source: Path | bytes) -> None:
    """Write under a name that the sensor passes over, fsync, and rename."""
    hidden = target.with_name(f".adding-{os.getpid()}")
    try:
        if isinstance(source, bytes):
            hidden.write_bytes(source)
        else:
            shutil.copyfile(source, hidden)
        with hidden.open("rb") as file:
            os.fsync(file.fileno())
        hidden.rename(target)
    finally:
        hidden.unlink(missing_ok=True)
