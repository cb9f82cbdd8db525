"""What lies in the inbox: one look at names and stat, without opening a file."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpu_assets.datasets.names import DATA_SUFFIX, SIDECAR_SUFFIX, display
from gpu_assets.datasets.records import as_priority
from gpu_assets.settings import Priority
from resources.workspace import PRIORITIES

Kind = Literal["file", "directory", "symlink", "FIFO", "socket", "device"]
IGNORED_SUFFIXES = (".tmp", ".part", ".crdownload", ".swp", "~")


@dataclass(frozen=True)
class Look:
    """What one lstat says; two equal looks mean that nobody wrote in between."""

    kind: Kind
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def from_stat(cls, status: os.stat_result) -> "Look":
        return cls(_kind(status.st_mode), status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class Entry:
    """One thing in the inbox with its sidecar; `folder_priority` where it lies in high, normal or low."""

    path: Path
    look: Look
    sidecar: Path | None
    sidecar_look: Look | None
    folder_priority: Priority | None

    @property
    def is_data(self) -> bool:
        return self.path.name.endswith(DATA_SUFFIX)


@dataclass(frozen=True)
class Scan:
    """`lone_sidecars` have no data file beside them; `unreadable` says which folders could not be looked into."""

    entries: tuple[Entry, ...]
    lone_sidecars: tuple[Entry, ...]
    unreadable: tuple[str, ...] = ()

    def same_in(self, later: "Scan") -> "Scan":
        """What of this scan is unchanged in a later one."""
        entries, lone = set(later.entries), set(later.lone_sidecars)
        return Scan(
            tuple(entry for entry in self.entries if entry in entries),
            tuple(entry for entry in self.lone_sidecars if entry in lone),
            later.unreadable,
        )

    def gone_in(self, later: "Scan") -> list[Path]:
        """What of this scan is not there any more in a later one."""
        still_there = {path for entry in (*later.entries, *later.lone_sidecars) for path in (entry.path, entry.sidecar)}
        return [entry.path for entry in (*self.entries, *self.lone_sidecars) if entry.path not in still_there]

    def __len__(self) -> int:
        return len(self.entries) + len(self.lone_sidecars)


def look_at(path: Path) -> Look | None:
    """One look at the path itself, links not followed; None if nothing is there."""
    try:
        return Look.from_stat(path.lstat())
    except FileNotFoundError:
        return None


def scan(inbox: Path) -> Scan:
    """One look at the inbox and its priority folders.

    Dot files and names of transfers under way (`*.tmp *.part *.crdownload *.swp *~`) are passed over.
    """
    entries: list[Entry] = []
    lone: list[Entry] = []
    unreadable: list[str] = []
    for folder, priority in _folders(inbox):
        try:
            found = dict(_names(folder, is_root=folder == inbox))
        except OSError as error:
            unreadable.append(
                f"{display(str(folder))} cannot be looked into ({error.strerror}); give the platform's user the right"
            )
            continue
        for name, look in found.items():
            entry = _entry(folder, name, look, found, priority)
            if entry is None:
                continue
            (lone if _is_sidecar(name) and look.kind == "file" else entries).append(entry)
    return Scan(tuple(entries), tuple(lone), tuple(unreadable))


def _folders(inbox: Path) -> Iterator[tuple[Path, Priority | None]]:
    if inbox.is_dir():
        yield inbox, None
    for name in PRIORITIES:
        look = look_at(inbox / name)
        if look is not None and look.kind == "directory":
            yield inbox / name, as_priority(name)


def _names(folder: Path, *, is_root: bool) -> Iterator[tuple[str, Look]]:
    for path in sorted(folder.iterdir()):
        name, look = path.name, look_at(path)
        if look is None or name.startswith(".") or name.lower().endswith(IGNORED_SUFFIXES):
            continue
        if is_root and name in PRIORITIES and look.kind == "directory":
            continue
        yield name, look


def _entry(folder: Path, name: str, look: Look, found: dict[str, Look], priority: Priority | None) -> Entry | None:
    """The entry of a name; None for a sidecar whose data file is there, since it goes with that."""
    data_name = name.removesuffix(SIDECAR_SUFFIX)
    if _is_sidecar(name) and data_name in found and not _is_sidecar(data_name):
        return None
    sidecar_look = None if _is_sidecar(name) else found.get(name + SIDECAR_SUFFIX)
    sidecar = folder / (name + SIDECAR_SUFFIX) if sidecar_look is not None else None
    return Entry(folder / name, look, sidecar, sidecar_look, priority)


def _is_sidecar(name: str) -> bool:
    return name.endswith(SIDECAR_SUFFIX)


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISLNK(mode):
        return "symlink"
    if stat.S_ISFIFO(mode):
        return "FIFO"
    return "socket" if stat.S_ISSOCK(mode) else "device"
