"""Model folders from the trainer to the inference host: a hard link or copy on one machine."""

import os
import shutil
from pathlib import Path

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import MANIFEST_FILE, is_complete, publishing, weights_sha256


def transfer_model(source: Path, models: Path, expected_weights_sha256: str) -> Path:
    """Bring a complete model folder under `models`; there already with these weights, it is left.

    Returns the folder there. Large files are hard links where the file system allows it.

    Raises:
        ArtifactInvalid: if the source has no manifest, or what arrived has other weights.
    """
    if not is_complete(source):
        raise ArtifactInvalid(f"{source} has no {MANIFEST_FILE}: it is incomplete and is not transferred")
    target = models / source.name
    if is_complete(target) and weights_sha256(target) == expected_weights_sha256:
        return target
    with publishing(target) as temporary:
        files = sorted(source.iterdir(), key=lambda file: file.name == MANIFEST_FILE)
        for file in files:
            _link_or_copy(file, temporary / file.name)
        arrived = weights_sha256(temporary)
        if arrived != expected_weights_sha256:
            raise ArtifactInvalid(
                f"{source}: weights {arrived[:8]} arrived at {models}, wanted {expected_weights_sha256[:8]}; "
                "the checkpoint was changed after it was published"
            )
    return target


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
