"""Which base model is configured, as a sensor asks at every tick."""

import os
import shutil
from pathlib import Path

import pytest

from gpu_assets.base_model import present
from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.base_model.present import base_model_folder, present_weights
from gpu_assets.settings import Settings
from resources.artifacts import weights_sha256
from resources.workspace import Workspace


@pytest.fixture
def own_model(settings: Settings, workspace: Workspace, tiny_folder: Path) -> tuple[Settings, Path]:
    """A configured folder of the user's, without a manifest of ours."""
    folder = shutil.copytree(tiny_folder, workspace.models / "own")
    (folder / "manifest.json").unlink()
    return settings.model_copy(update={"model_path": "own"}), folder


def test_a_preset_is_not_there_before_it_is_made_and_then_is_what_its_manifest_says(
    settings: Settings, workspace: Workspace
) -> None:
    assert present_weights(settings, workspace) is None
    model = ensure_base_model(settings, workspace)
    assert base_model_folder(settings, workspace) == model.folder
    assert present_weights(settings, workspace) == model.weights_sha256


def test_a_folder_without_weights_is_no_base_model(settings: Settings, workspace: Workspace) -> None:
    own = settings.model_copy(update={"model_path": "own"})
    assert present_weights(own, workspace) is None
    (workspace.models / "own").mkdir()
    assert present_weights(own, workspace) is None


def test_a_folder_is_hashed_once_and_again_when_its_weights_change(
    own_model: tuple[Settings, Path], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, folder = own_model
    hashed: list[Path] = []
    monkeypatch.setattr(present, "weights_sha256", lambda path: hashed.append(path) or weights_sha256(path))
    first = present_weights(own, workspace)
    assert present_weights(own, workspace) == first == weights_sha256(folder)
    assert hashed == [folder]
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 4)
    assert present_weights(own, workspace) == weights_sha256(folder) != first
