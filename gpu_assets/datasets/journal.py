"""Moves out of the inbox that a crash cannot leave half done.

An intent is written to `datasets/.incoming-<key>/intent.json` before anything moves. Then come its
moves in order, then what is to be recorded, and with a manifest the folder itself becomes
`datasets/<key>`. Every step may be made twice, so `recover` makes them all again; an intent whose
first file is gone or was written to meanwhile is dropped. Either way each file is in exactly one place.
"""

import errno
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu_assets.datasets.names import decode_path, encode_path, free_name
from gpu_assets.datasets.records import DUPLICATES_FILE, reopen
from gpu_assets.datasets.scan import Look, look_at
from resources.artifacts import MANIFEST_FILE, is_complete, write_json
from resources.workspace import Workspace

INTENT_FILE = "intent.json"
REASON_FILE = "reason.json"
STAGING_PREFIX = ".incoming-"
COPYING_PREFIX = ".copying-"
REMOVING_PREFIX = ".removing-"


@dataclass(frozen=True)
class Move:
    """From where to where; only the thing that was looked at is moved, without a look whatever is there."""

    source: Path
    target: Path
    look: Look | None


@dataclass(frozen=True)
class Intent:
    """Moves, and what is recorded after them.

    `manifest` publishes a new dataset, `reason` goes beside what is put into quarantine, `duplicate`
    is a line of the dataset's duplicates.jsonl, `reopens` lets the dataset be tried again.
    """

    key: str
    moves: tuple[Move, ...]
    manifest: dict[str, Any] | None = None
    reason: dict[str, Any] | None = None
    duplicate: dict[str, Any] | None = None
    reopens: bool = False

    def to_json(self) -> dict[str, Any]:
        moves = [
            [encode_path(move.source), encode_path(move.target), asdict(move.look) if move.look else None]
            for move in self.moves
        ]
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"moves": moves}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Intent":
        moves = tuple(
            Move(decode_path(source), decode_path(target), Look(**look) if look else None)
            for source, target, look in value["moves"]
        )
        return cls(**(value | {"moves": moves}))


def staging_folder(workspace: Workspace, key: str) -> Path:
    return workspace.datasets / f"{STAGING_PREFIX}{key}"


def perform(workspace: Workspace, intent: Intent) -> bool:
    """Carry an intent out; False, with all as it was, if its first file is gone or was written to meanwhile.

    Raises:
        OSError: if a move or a write fails; `recover` goes on from there.
    """
    staging = staging_folder(workspace, intent.key)
    staging.mkdir(parents=True, exist_ok=True)
    write_json(staging / INTENT_FILE, intent.to_json())
    return _finish(workspace, staging, intent)


def recover(workspace: Workspace) -> list[str]:
    """Finish or drop all intents that a crash left; returns a sentence for each that could not be."""
    problems = []
    for staging in sorted(workspace.datasets.glob(f"{STAGING_PREFIX}*")):
        try:
            _recover_one(workspace, staging)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{staging} holds a half-done intake that cannot be finished: {error}; look into it")
    return problems


def _recover_one(workspace: Workspace, staging: Path) -> None:
    path = staging / INTENT_FILE
    if path.is_file():
        intent = Intent.from_json(json.loads(path.read_text(encoding="utf-8")))
        _finish(workspace, staging, intent)
    elif is_complete(staging):
        _publish(workspace, staging)
    else:
        _discard(staging)


def _finish(workspace: Workspace, staging: Path, intent: Intent) -> bool:
    if not _first_move(intent.moves):
        _discard(staging)
        return False
    for move in intent.moves[1:]:
        _carry_out(move)
    if intent.reason is not None:
        write_json(intent.moves[0].target.with_name(REASON_FILE), intent.reason)
    if intent.duplicate is not None:
        _append_once(workspace.datasets / intent.key / DUPLICATES_FILE, intent.duplicate)
    if intent.reopens:
        reopen(workspace.datasets / intent.key)
    if intent.manifest is None:
        _discard(staging)
    else:
        write_json(staging / MANIFEST_FILE, intent.manifest)
        _clear(staging)
        _publish(workspace, staging)
    return True


def _publish(workspace: Workspace, staging: Path) -> None:
    staging.rename(workspace.datasets / staging.name.removeprefix(STAGING_PREFIX))
    _sync_folder(workspace.datasets)


def _discard(staging: Path) -> None:
    """Remove a staging folder that holds no data."""
    _clear(staging)
    staging.rmdir()


def _clear(staging: Path) -> None:
    """Remove what `write_json` and a copy left unfinished, and then the intent."""
    for pattern in (".*.tmp", f"{COPYING_PREFIX}*", INTENT_FILE):
        for path in staging.glob(pattern):
            path.unlink()


def _first_move(moves: tuple[Move, ...]) -> bool:
    """Make the move that decides; a file that was written to since the look is put back."""
    move = moves[0]
    _carry_out(move)
    moved = look_at(move.target)
    if moved is None:
        return _was_moved_on(move, moves[1:])
    is_only_one_made = not any(os.path.lexists(later.target) for later in moves[1:])
    was_renamed = move.look is not None and moved.kind == "file" and moved.inode == move.look.inode
    if is_only_one_made and was_renamed and moved != move.look:
        move.target.rename(move.source.with_name(free_name(move.source.parent, move.source.name)))
        return False
    return True


def _was_moved_on(move: Move, later: tuple[Move, ...]) -> bool:
    """Whether a later move took the thing from where this one put it."""
    for following in later:
        look = look_at(following.target)
        if following.source == move.target and look is not None and move.look is not None:
            return (look.size, look.mtime_ns) == (move.look.size, move.look.mtime_ns)
    return False


def _carry_out(move: Move) -> None:
    """Make a move, unless it was made before or the source is not the thing that was looked at."""
    is_made = os.path.lexists(move.target)
    if is_made and move.look is not None:
        _remove(_half_removed(move.source, move.look))
    source = look_at(move.source)
    if source is None:
        return
    if move.look is not None and (source.inode, source.kind) != (move.look.inode, move.look.kind):
        return
    if is_made:
        if source == move.look:
            _remove_source(move.source, source)  # of a finished copy to another file system
        return
    move.target.parent.mkdir(parents=True, exist_ok=True)
    try:
        move.source.rename(move.target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_across(move.source, move.target, source)
    _sync_folder(move.target.parent)


def _copy_across(source: Path, target: Path, look: Look) -> None:
    """The same move between two file systems: copy, fsync, rename, and then remove the source."""
    partial = target.with_name(f"{COPYING_PREFIX}{look.inode}")
    _remove(partial)
    if look.kind == "directory":
        shutil.copytree(source, partial, symlinks=True)
    elif look.kind in ("file", "symlink"):
        shutil.copy2(source, partial, follow_symlinks=False)
    else:
        raise OSError(errno.EXDEV, f"a {look.kind} cannot be copied to another file system", str(source))
    if look.kind == "file":
        with partial.open("rb") as file:
            os.fsync(file.fileno())
    if look_at(source) != look:
        _remove(partial)
        return
    partial.rename(target)
    _sync_folder(target.parent)
    _remove_source(source, look)


def _remove_source(source: Path, look: Look) -> None:
    """Remove what was copied; of a directory no part is ever seen under its own name."""
    half_removed = _half_removed(source, look)
    source.rename(half_removed)
    _remove(half_removed)


def _half_removed(source: Path, look: Look) -> Path:
    return source.with_name(f"{REMOVING_PREFIX}{look.inode}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _append_once(path: Path, record: dict[str, Any]) -> None:
    """Append a line of JSON, unless it is there; a line that a crash cut short is ended first."""
    line = json.dumps(record, sort_keys=True)
    text = path.read_text(encoding="ascii") if path.exists() else ""
    if line in text.split("\n"):
        return
    with path.open("a", encoding="ascii") as file:
        file.write(("" if not text or text.endswith("\n") else "\n") + line + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
