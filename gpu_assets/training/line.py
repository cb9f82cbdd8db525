"""The line of checkpoints: which are published, which is the head, where training goes on."""

import logging
from collections.abc import Iterable

from gpu_assets.base_model.records import BaseModel
from gpu_assets.errors import ArtifactInvalid, SettingsError
from gpu_assets.training.records import Checkpoint, Parent
from resources.artifacts import is_complete
from resources.workspace import Workspace

logger = logging.getLogger(__name__)


def list_checkpoints(workspace: Workspace) -> list[Checkpoint]:
    """All published checkpoints in the order in which they were published.

    Folders without a manifest are no checkpoints and are passed over; so, with an error in the log, are those
    whose manifest is not a checkpoint's, which must not stop the others.
    """
    found = []
    for folder in workspace.checkpoints.glob("checkpoint-*"):
        if not is_complete(folder):
            continue
        try:
            found.append(Checkpoint.read(folder))
        except ArtifactInvalid as error:
            logger.error("passed over: %s", error)
    return sorted(found, key=lambda checkpoint: checkpoint.sequence)


def line_of(base_weights: str, checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints that began at the base model with these weights, in order."""
    return [checkpoint for checkpoint in checkpoints if checkpoint.base_weights_sha256 == base_weights]


def head_of(base_weights: str, checkpoints: Iterable[Checkpoint]) -> str:
    """The weights from which the line goes on: the newest checkpoint's, or the base model's where it has none."""
    line = line_of(base_weights, checkpoints)
    return line[-1].weights_sha256 if line else base_weights


def parent_at(base: BaseModel, line: list[Checkpoint], weights_sha256: str | None = None) -> Parent:
    """Where training goes on: the head of the line, or the checkpoint with these weights.

    Raises:
        SettingsError: if no checkpoint of the line has these weights.
    """
    if weights_sha256 is None:
        return _as_parent(line[-1]) if line else Parent.of_base(base)
    for checkpoint in line:
        if checkpoint.weights_sha256 == weights_sha256:
            return _as_parent(checkpoint)
    raise SettingsError(
        f"no checkpoint of {base.name}'s line has the weights {weights_sha256[:8]}; "
        f"the line holds {[checkpoint.name for checkpoint in line]}"
    )


def descent_of(newest: Checkpoint, checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """A checkpoint and its ancestors, the newest first, as far as they are among those given."""
    by_weights = {checkpoint.weights_sha256: checkpoint for checkpoint in checkpoints}
    descent = [newest]
    while (parent := by_weights.get(descent[-1].parent_sha256)) is not None and parent not in descent:
        descent.append(parent)
    return descent


def find_trained(line: Iterable[Checkpoint], dataset_key: str) -> Checkpoint | None:
    """The latest checkpoint that was trained on the dataset itself, or None."""
    found = [checkpoint for checkpoint in line if dataset_key in checkpoint.dataset_keys]
    return found[-1] if found else None


def _as_parent(checkpoint: Checkpoint) -> Parent:
    return Parent(
        "checkpoint",
        checkpoint.name,
        checkpoint.folder,
        checkpoint.weights_sha256,
        checkpoint.base_weights_sha256,
        checkpoint.step,
    )
