"""The queue as people see and change it: what waits, adding files, priorities, retries.

Knows nothing of Dagster: what is materialized, open and failed comes in as `QueueFacts`.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gpu_assets.datasets.names import DATA_SUFFIX, MAX_NAME_BYTES, SIDECAR_SUFFIX, display, free_name
from gpu_assets.datasets.records import (
    SKIP_FILE,
    Dataset,
    dataset_keys,
    find_dataset,
    forget_refusal,
    join_next_step,
    open_since,
    read_dataset,
    reopen,
    standing_refusal,
    standing_skip,
)
from gpu_assets.datasets.scan import scan
from gpu_assets.errors import ArtifactInvalid, IntakeRefused, SettingsError
from gpu_assets.settings import Priority
from resources.artifacts import write_json
from resources.workspace import PRIORITIES, Workspace

State = Literal[
    "waiting",
    "validating",
    "validated",
    "training",
    "trained",
    "judging",
    "scored",
    "refused",
    "set aside",
    "broken",
]
Stage = Literal["taking in", "training", "judging"]
"""What a run does with a dataset."""
RETRYABLE = ("refused", "set aside", "broken")
MAX_DATA_NAME_BYTES = MAX_NAME_BYTES - len(SIDECAR_SUFFIX)


class GaveUp(NamedTuple):
    """The stage whose runs over a dataset failed too often: how many did, and the last one's error in a line."""

    stage: Stage
    runs: int
    cause: str | None = None


@dataclass(frozen=True)
class QueueFacts:
    """What Dagster knows of datasets, by key; empty where a home has no instance yet.

    `trained` is by the newest line, `under_way` what queued and running runs cover, `gave_up` counts since the dataset
    was opened last; `rows` counts the accepted rows. `hold` says who holds training, `full_disk` what room it waits
    for, if so.
    """

    validated: Collection[str] = ()
    trained: Collection[str] = ()
    scored: Collection[str] = ()
    under_way: Mapping[Stage, Collection[str]] = field(default_factory=dict)
    gave_up: Mapping[str, GaveUp] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    hold: str | None = None
    full_disk: str | None = None


@dataclass(frozen=True)
class QueueRow:
    """One line of `queue list`; `sentence` says what a person should know or do.

    What a broken manifest does not tell is None. `can_retry` is whether `retry` may help.
    """

    key: str
    state: State
    sentence: str = ""
    can_retry: bool = False
    priority: Priority | None = None
    rows: int | None = None
    size_bytes: int | None = None
    taken_in_at: str | None = None
    original_name: str | None = None


def list_queue(workspace: Workspace, facts: QueueFacts) -> list[QueueRow]:
    """All datasets: by priority, then in the order of their taking in; what cannot be read comes last."""
    rows = [_describe_folder(workspace.datasets / key, facts) for key in dataset_keys(workspace)]
    return sorted(rows, key=_place)


def retryable(workspace: Workspace, facts: QueueFacts) -> list[str]:
    """The keys that `retry` may help, in the order of the list."""
    return [row.key for row in list_queue(workspace, facts) if row.can_retry]


def _place(row: QueueRow) -> tuple[int, str, str]:
    return PRIORITIES.index(row.priority) if row.priority else len(PRIORITIES), row.taken_in_at or "", row.key


def _describe_folder(folder: Path, facts: QueueFacts) -> QueueRow:
    try:
        dataset = read_dataset(folder)
    except (ArtifactInvalid, OSError) as error:
        return QueueRow(folder.name, "broken", str(error))
    return describe(dataset, facts)


def list_inbox(workspace: Workspace) -> list[str]:
    """What lies in the inbox and is not taken in yet, by path inside it."""
    found = scan(workspace.inbox)
    paths = [entry.path.relative_to(workspace.inbox) for entry in (*found.entries, *found.lone_sidecars)]
    return sorted(display(str(path)) for path in paths)


def describe(dataset: Dataset, facts: QueueFacts) -> QueueRow:
    """A dataset's state: how far it came, and what is done with it now or keeps it where it is."""
    try:
        state, sentence = _state(dataset, facts)
    except ArtifactInvalid as error:
        state, sentence = "broken", str(error)
    return QueueRow(
        key=dataset.key,
        state=state,
        sentence=sentence,
        can_retry=state in RETRYABLE and dataset.refused is None,
        priority=dataset.priority,
        rows=facts.rows.get(dataset.key),
        size_bytes=dataset.size_bytes,
        taken_in_at=dataset.taken_in_at,
        original_name=dataset.original_name,
    )


def _state(dataset: Dataset, facts: QueueFacts) -> tuple[State, str]:
    key = dataset.key
    refusal, _ = standing_refusal(dataset.folder), open_since(dataset)
    now = {stage for stage, keys in facts.under_way.items() if key in keys}
    reached: State
    if key in facts.trained:
        reached = "judging" if "judging" in now else "scored" if key in facts.scored else "trained"
    elif key in facts.validated:
        reached = "validated"
    elif dataset.refused is not None:
        return "refused", dataset.refused
    elif "taking in" in now:
        return "validating", ""
    elif refusal is not None:
        return "refused", join_next_step(refusal.sentence, refusal.next_step)
    else:
        reached = "waiting"
    if "training" in now and reached != "waiting":
        return "training", ""
    skip = standing_skip(dataset.folder)
    if skip is not None and key not in facts.trained:
        why = f": {skip.reason}" if skip.reason else ""
        return "set aside", f"{reached}; skipped at {skip.at}{why}; `gpu-assets queue retry {key}` takes it back"
    if reached != "judging" and key in facts.gave_up:
        return "set aside", f"{reached}; {_give_up_sentence(facts.gave_up[key])} `gpu-assets queue retry {key}`"
    return reached, ""


def _give_up_sentence(gave_up: GaveUp) -> str:
    """What happened, up to the command that tries it again."""
    stage, runs, cause = gave_up
    counted, them = ("1 failed run", "it") if runs == 1 else (f"{runs} failed runs", "them")
    why = f": {cause.rstrip('.')}" if cause else ""
    return f"{stage} gave up after {counted}{why}; see {them} in Dagster, then"


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
    """Let a refused, skipped or failed dataset be tried again: all that is forgotten.

    Raises:
        SettingsError: if no dataset has the key, its checkpoint is scored, or the inbox refused it.
    """
    dataset = find_dataset(workspace, key)
    if key in scored:
        raise SettingsError(f"{key} was trained and its checkpoint scored; there is nothing to try again")
    if dataset.refused is not None:
        raise SettingsError(f"{key} has no data to try again: {dataset.refused}")
    reopen(dataset.folder)
    forget_refusal(dataset.folder)
    (dataset.folder / SKIP_FILE).unlink(missing_ok=True)
    return dataset


def _add(folder: Path, file: Path, sidecar: bytes | None) -> Path:
    """Both are whole under names that the sensor passes over before either appears; then the sidecar does first.

    A sidecar alone waits only seconds for its data, and data alone is taken in without it.
    """
    target = folder / free_name(folder, file.name, max_bytes=MAX_DATA_NAME_BYTES)
    hidden, hidden_sidecar = (folder / f".adding-{os.getpid()}{suffix}" for suffix in ("", SIDECAR_SUFFIX))
    try:
        shutil.copyfile(file, hidden)
        _flush(hidden)
        if sidecar is not None:
            hidden_sidecar.write_bytes(sidecar)
            _flush(hidden_sidecar)
            hidden_sidecar.rename(target.with_name(target.name + SIDECAR_SUFFIX))
        hidden.rename(target)
    finally:
        hidden.unlink(missing_ok=True)
        hidden_sidecar.unlink(missing_ok=True)
    return target


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


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
