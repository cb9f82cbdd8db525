"""Which inbox entries are not taken in, and the sentence that says so."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_assets.datasets.names import DATA_SUFFIX, SIDECAR_SUFFIX, display, slug, stem_of
from gpu_assets.datasets.records import REFUSAL_KIND
from gpu_assets.datasets.scan import Entry
from resources.clock import utc_now

WANTED = f"a regular file named *{DATA_SUFFIX}, with or without a sidecar *{DATA_SUFFIX}{SIDECAR_SUFFIX}"


@dataclass(frozen=True)
class Rejection:
    """What was seen instead of a data file, and what to do about it."""

    seen: str
    next_step: str
    target: str = ""

    def sentence(self, entry: Entry, quarantine: Path) -> str:
        return (
            f"{display(entry.path.name)} is {self.seen}; wanted: {WANTED}. "
            f"It was moved to quarantine/{quarantine.name}. {self.next_step}"
        )

    def key(self, entry: Entry) -> str:
        """`<slug>-<first 8 hex of the identity>`: the same refusal again has the same key."""
        return f"{slug(stem_of(entry.path.name))}-{self.identity(entry)[:8]}"

    def identity(self, entry: Entry) -> str:
        """sha256 of the entry's name, kind and link target: what stands for the content it does not have."""
        parts = (os.fsencode(entry.path.name), self.seen.encode(), os.fsencode(self.target))
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def reason(self, entry: Entry, sentence: str) -> dict[str, Any]:
        """The content of quarantine's reason.json."""
        return {
            "kind": REFUSAL_KIND,
            "sentence": sentence,
            "original_name": display(entry.path.name),
            "seen": self.seen,
            "wanted": WANTED,
            "next_step": self.next_step,
            "at": utc_now(),
        }


UNREADABLE = Rejection(
    "a file that may not be read", "Give the platform's user the right to read it and drop it again."
)


def reject(entry: Entry) -> Rejection | None:
    """Why the entry cannot be taken in, as far as can be told without reading its data."""
    if entry.look.kind == "directory":
        return Rejection("a directory", "Drop the files that it holds; only the folders high, normal and low are read.")
    if entry.look.kind == "symlink":
        target = str(entry.path.readlink())
        return Rejection(f"a symbolic link to {display(target)}", "Drop a copy of the file itself.", target)
    if entry.look.kind != "file":
        return Rejection(f"a {entry.look.kind}", "Write the rows to a file and drop that.")
    if not entry.is_data:
        return Rejection(
            "a file of another name", f"If it holds JSON lines, rename it to *{DATA_SUFFIX}; drop it again."
        )
    if entry.sidecar_look is not None and entry.sidecar_look.kind != "file":
        return Rejection(
            f"a file whose sidecar is a {entry.sidecar_look.kind}", "Drop both again, the sidecar as a regular file."
        )
    if entry.sidecar is not None and not _is_readable(entry.sidecar):
        return Rejection(
            "a file whose sidecar may not be read",
            "Give the platform's user the right to read both and drop them again.",
        )
    return None


def _is_readable(path: Path) -> bool:
    """Whether the platform's user may read it; what is gone or is no file is for others to say."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
    except PermissionError:
        return False
    except OSError:
        return True
    return True
