"""Room on the disk for what training writes: asked for before it begins and before each write."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from gpu_assets.errors import DiskFull

GB = 10**9


@dataclass(frozen=True)
class StateSize:
    """Bytes of what training saves: the model's weights, and the optimizer's states."""

    weights: int
    optimizer: int

    @property
    def resume_point(self) -> int:
        return self.weights + self.optimizer

    @property
    def outcome(self) -> int:
        """The trained model in the work folder, the published copy of it, and the optimizer's states."""
        return 2 * self.weights + self.optimizer


def require_free(folder: Path, wanted: int, floor: int, purpose: str) -> None:
    """Refuse what would leave less than `floor` bytes free on the folder's disk.

    Args:
        wanted: bytes that are about to be written.
        purpose: what they are, as the subject of a sentence.

    Raises:
        DiskFull: with what is free, what is wanted and what to do.
    """
    free = shutil.disk_usage(folder).free
    missing = wanted + floor - free
    if missing > 0:
        raise DiskFull(
            f"{folder} is on a disk with {_gb(free)} GB free; {purpose} takes {_gb(wanted)} GB, and {_gb(floor)} GB "
            f"must be left (storage.min_free_gb): free {_gb(missing)} GB, put GPU_ASSETS_HOME on a larger disk, or "
            "lower storage.min_free_gb",
            wanted=wanted,
        )


def _gb(amount: int) -> str:
    """Rounded up, so that what is missing is never nought."""
    return f"{math.ceil(amount / GB * 1000) / 1000:.3f}".rstrip("0").rstrip(".")
