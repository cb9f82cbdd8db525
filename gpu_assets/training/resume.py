"""Resume points: what a run that was stopped goes on from.

`resume-<step>` in a plan's work folder, an artifact as all others: written under a temporary name,
fsynced, manifest last, renamed. The newest is written while the one before is still there, and the
newest that is what its manifest says is gone on from.

Scheduled ones stand at multiples of `save_steps`; an interrupt leaves one at any step. Only a scheduled one is
rolled back to, so that an interrupt changes no weights.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import (
    MANIFEST_FILE,
    file_hashes,
    is_complete,
    publishing,
    read_manifest,
    require_as_written,
    write_json,
)

RESUME_KIND = "resume_point"
FORMAT = 2
"""Raised with every change of what a resume point holds."""
PREFIX = "resume-"
KEPT = 2
ROLLBACKS_FILE = "rollbacks.json"
SPLITS_FILE = "splits.json"
_NAME = re.compile(rf"{PREFIX}([0-9]+)")


def resume_points(work: Path) -> list[Path]:
    """The complete resume points of a work folder, the newest first."""
    return sorted(filter(is_complete, _folders(work)), key=_step, reverse=True)


def make_room(work: Path, step: int, every: int = 1) -> None:
    """Remove what is not needed once the resume point of this step is there, so that there is room to write it.

    The newest stays, and so at most two are on the disk at any time. Where the step is not on the schedule of
    every so many steps, what stays is the newest that is.
    """
    points = resume_points(work)
    if step % every:
        points.sort(key=lambda folder: (_step(folder) % every == 0, _step(folder)), reverse=True)
    for folder in points[KEPT - 1 :]:
        _remove(folder)
    torn = [folder for folder in _folders(work) if not is_complete(folder)]
    for folder in (*torn, *work.glob(f".{PREFIX}*")):
        shutil.rmtree(folder)


def save_resume_point(work: Path, step: int, save: Callable[[Path], None], every: int = 1) -> None:
    """Keep the state at a step; `save` writes it into the folder that it is given."""
    make_room(work, step, every)
    with publishing(work / f"{PREFIX}{step}") as temporary:
        save(temporary)
        manifest = {"kind": RESUME_KIND, "format": FORMAT, "step": step, "files": file_hashes(temporary)}
        write_json(temporary / MANIFEST_FILE, manifest)


def load_resume_point(
    work: Path, load: Callable[[Path], None], report: Callable[[str], None], every: int = 1
) -> int | None:
    """Load the newest resume point that is what its manifest says; the others are said and removed.

    Args:
        every: those that do not stand at a multiple of so many steps are removed.

    Returns:
        The step at which it stands, or None if there is none.
    """
    discarded = False
    for folder in resume_points(work):
        if _step(folder) % every:
            _remove(folder)
            continue
        try:
            _check(folder)
        except ArtifactInvalid as error:
            discard_resume_point(folder, str(error), report)
            discarded = True
            continue
        load(folder)
        return _step(folder)
    if discarded:
        report("no usable resume point is left: training begins at the start")
    return None


def discard_resume_point(folder: Path, why: str, report: Callable[[str], None]) -> None:
    """Remove a resume point that cannot be gone on from, and say so."""
    report(f"the resume point {folder.name} cannot be used: {why}; looking for the one before")
    _remove(folder)


def note_rollbacks(work: Path, rollbacks: Sequence[Mapping[str, Any]]) -> None:
    """Keep that training goes on as rolled back, until a resume point says so itself."""
    write_json(work / ROLLBACKS_FILE, {"rollbacks": list(rollbacks)})


def noted_rollbacks(work: Path, step: int, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """What `note_rollbacks` kept, if training went back to this step."""
    rollbacks: list[dict[str, Any]] = _noted(work / ROLLBACKS_FILE, "rollbacks", list, report) or []
    return rollbacks if rollbacks and rollbacks[-1].get("to_step") == step else []


def note_splits(work: Path, splits: int) -> None:
    """Keep how often micro-batches must be halved, where training has to begin anew to do so."""
    write_json(work / SPLITS_FILE, {"micro_batch_splits": splits})


def noted_splits(work: Path, report: Callable[[str], None]) -> int:
    """What `note_splits` kept; 0 if nothing."""
    return _noted(work / SPLITS_FILE, "micro_batch_splits", int, report) or 0


def _noted(path: Path, key: str, kind: type[Any], report: Callable[[str], None]) -> Any:
    """What a note keeps under its key; None where there is none, and where it cannot be read, which is said."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))[key]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        value = None
    if isinstance(value, kind):
        return value
    report(f"{path} cannot be read: going on without what it kept; it is learnt again where it is needed")
    return None


def _check(folder: Path) -> None:
    """Compare a resume point's files with its manifest.

    Raises:
        ArtifactInvalid: naming the first file that differs.
    """
    manifest = read_manifest(folder, RESUME_KIND)
    if manifest.get("format") != FORMAT:
        raise ArtifactInvalid(f"{folder / MANIFEST_FILE} is of format {manifest.get('format')!r}, wanted {FORMAT}")
    recorded = manifest.get("files")
    if not isinstance(recorded, dict) or not recorded:
        raise ArtifactInvalid(f"{folder / MANIFEST_FILE} names no files")
    require_as_written(folder, recorded)


def _remove(folder: Path) -> None:
    """The manifest first: a folder of which only a part is gone is no resume point."""
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _folders(work: Path) -> list[Path]:
    """The folders that are named as a resume point is; what else somebody put there is left alone."""
    return [path for path in work.glob(f"{PREFIX}*") if _NAME.fullmatch(path.name) and path.is_dir()]


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))
