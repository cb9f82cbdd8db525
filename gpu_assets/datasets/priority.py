"""The priority of an inbox entry, and the order in which entries are taken in."""

import json
from collections.abc import Iterable

from gpu_assets.datasets.records import PrioritySource, as_priority
from gpu_assets.datasets.scan import Entry
from gpu_assets.settings import Priority
from resources.workspace import PRIORITIES

MAX_SIDECAR_BYTES = 2**20


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """By priority, then oldest change, then name."""
    return sorted(
        entries, key=lambda entry: (PRIORITIES.index(priority_of(entry)[0]), entry.look.mtime_ns, entry.path.name)
    )


def priority_of(entry: Entry) -> tuple[Priority, PrioritySource]:
    """The folder's, else the sidecar's, else normal. What is wrong with a sidecar is for its gate to say."""
    if entry.folder_priority is not None:
        return entry.folder_priority, "folder"
    look = entry.sidecar_look
    if entry.sidecar is not None and look is not None and look.kind == "file" and look.size <= MAX_SIDECAR_BYTES:
        try:
            sidecar = json.loads(entry.sidecar.read_bytes())
        except (OSError, ValueError, RecursionError):
            return "normal", "default"
        priority = as_priority(sidecar.get("priority")) if isinstance(sidecar, dict) else None
        if priority is not None:
            return priority, "sidecar"
    return "normal", "default"
