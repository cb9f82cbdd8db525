"""Resume points: what a run that was stopped goes on from.

`resume-<step>` in a plan's work folder, an artifact as all others: written under a temporary name,
fsynced, manifest last, renamed. The newest is written while the one before is still there, and the
newest that is what its manifest says is gone on from.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import MANIFEST_FILE, is_complete, publishing, read_manifest, sha256_file, write_json

RESUME_KIND = "resume_point"
PREFIX = "resume-"
KEPT = 2


def resume_points(work: Path) -> list[Path]:
    """The complete resume points of a work folder, the newest first."""
    return sorted(filter(is_complete, work.glob(f"{PREFIX}*")), key=_step, reverse=True)


def save_resume_point(work: Path, step: int, save: Callable[[Path], None]) -> None:
    """Keep the state at a step; `save` writes it into the folder that it is given.

    At most two are on the disk, the one being written included.
    """
    for folder in (*resume_points(work)[KEPT - 1 :], *work.glob(f".{PREFIX}*")):
        shutil.rmtree(folder)
    with publishing(work / f"{PREFIX}{step}") as temporary:
        save(temporary)
        files = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / MANIFEST_FILE, {"kind": RESUME_KIND, "format": 1, "step": step, "files": files})


def load_resume_point(work: Path, load: Callable[[Path], None], report: Callable[[str], None]) -> int | None:
    """Load the newest resume point that is what its manifest says; the others are said and removed.

    Returns:
        The step at which it stands, or None if there is none.
    """
    for folder in resume_points(work):
        try:
            _check(folder)
        except ArtifactInvalid as error:
            report(f"the resume point {folder.name} cannot be used: {error}; looking for the one before")
            shutil.rmtree(folder)
            continue
        load(folder)
        return _step(folder)
    return None


def _check(folder: Path) -> None:
    """Compare a resume point's files with its manifest.

    Raises:
        ArtifactInvalid: naming the first file that differs.
    """
    recorded = read_manifest(folder, RESUME_KIND).get("files", {})
    if not recorded:
        raise ArtifactInvalid(f"{folder / MANIFEST_FILE} names no files")
    for name, sha256 in recorded.items():
        if not (folder / name).is_file():
            raise ArtifactInvalid(f"{folder / name} is missing")
        if sha256_file(folder / name) != sha256:
            raise ArtifactInvalid(f"{folder / name} is not what was written")


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))
