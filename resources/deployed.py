"""The record of what is served: `serving/deployed/manifest.json`, written after verification only."""

from pathlib import Path
from typing import Any

from resources.artifacts import MANIFEST_FILE, is_complete, read_manifest, write_json
from resources.workspace import Workspace

DEPLOYMENT_KIND = "deployment"


def deployed_folder(workspace: Workspace) -> Path:
    return workspace.serving / "deployed"


def read_deployed(workspace: Workspace) -> dict[str, Any] | None:
    """The record, or None if nothing was ever deployed; `served_path` and `weights_sha256` are in it.

    Raises:
        ArtifactInvalid: if the record is there and does not parse.
    """
    folder = deployed_folder(workspace)
    return read_manifest(folder, DEPLOYMENT_KIND) if is_complete(folder) else None


def write_deployed(workspace: Workspace, record: dict[str, Any]) -> None:
    """Replace the record atomically."""
    folder = deployed_folder(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST_FILE, {"kind": DEPLOYMENT_KIND, "format": 1, **record})
