"""Which base model is configured, without loading it: cheap enough for every tick of a sensor."""

from functools import lru_cache
from pathlib import Path

from gpu_assets.base_model.records import BASE_MODEL_KIND
from gpu_assets.settings import PRESET_PREFIX, Settings
from resources.artifacts import WEIGHTS_SUFFIX, is_complete, read_manifest, weights_sha256
from resources.workspace import Workspace

Stamps = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and mtime in ns of each weights file."""


def base_model_folder(settings: Settings, workspace: Workspace) -> Path:
    """Where the configured base model lies, or will lie; a preset's folder names its seed."""
    if settings.uses_preset:
        preset = settings.model_path.removeprefix(PRESET_PREFIX)
        return workspace.models / f"{preset}-seed{settings.hyperparams.seed}"
    return (workspace.models / settings.model_path).resolve()


def present_weights(settings: Settings, workspace: Workspace) -> str | None:
    """The hash of the configured base model's weights, or None if there are none yet.

    The manifest says it where there is one. A folder without is hashed once, and again when the size or the
    time of one of its weights files changes.

    Raises:
        ArtifactInvalid: if the folder's manifest is not a base model's.
    """
    folder = base_model_folder(settings, workspace)
    if is_complete(folder):
        return str(read_manifest(folder, BASE_MODEL_KIND)["weights_sha256"])
    stamps = tuple(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob(f"*{WEIGHTS_SUFFIX}"))
    )
    return _hashed(folder, stamps) if stamps else None


@lru_cache(maxsize=4)
def _hashed(folder: Path, stamps: Stamps) -> str:
    return weights_sha256(folder)
