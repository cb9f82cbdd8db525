"""The record of what is served: `serving/deployed/manifest.json`, written after verification only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import MANIFEST_FILE, is_complete, read_manifest, write_json
from resources.transfer import transfer_model
from resources.workspace import Workspace

DEPLOYMENT_KIND = "deployment"


@dataclass(frozen=True)
class Recorded:
    """What a server needs of the record; `folder` may be gone."""

    checkpoint: str
    folder: Path
    weights_sha256: str


def deployed_folder(workspace: Workspace) -> Path:
    return workspace.serving / "deployed"


def read_deployed(workspace: Workspace) -> dict[str, Any] | None:
    """The record, or None if nothing was ever deployed; `served_path` and `weights_sha256` are in it.

    Raises:
        ArtifactInvalid: if the record is there and does not parse.
    """
    folder = deployed_folder(workspace)
    return read_manifest(folder, DEPLOYMENT_KIND) if is_complete(folder) else None


def recorded_champion(workspace: Workspace) -> Recorded | None:
    """The model that is recorded as deployed, or None if none ever was.

    Raises:
        ArtifactInvalid: if the record is there and does not say which.
    """
    record = read_deployed(workspace)
    if record is None:
        return None
    try:
        return Recorded(str(record["checkpoint"]), Path(record["served_path"]), str(record["weights_sha256"]))
    except (KeyError, TypeError) as error:
        raise ArtifactInvalid(
            f"{deployed_folder(workspace) / MANIFEST_FILE} does not say what is deployed ({error!r}): deploy again"
        ) from None


def bring_over_again(recorded: Recorded, workspace: Workspace) -> Path:
    """The recorded model's folder among the served ones, from its checkpoint if it is not there as it should be.

    Raises:
        ArtifactInvalid: if the checkpoint is gone too, or has other weights.
    """
    return transfer_model(workspace.checkpoints / recorded.checkpoint, workspace.served_models, recorded.weights_sha256)


def write_deployed(workspace: Workspace, record: dict[str, Any]) -> None:
    """Replace the record atomically."""
    folder = deployed_folder(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST_FILE, {"kind": DEPLOYMENT_KIND, "format": 1, **record})
