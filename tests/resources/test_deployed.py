"""The record of what is served, and its folder where that was lost."""

import shutil
from pathlib import Path

import pytest

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import weights_sha256
from resources.deployed import bring_over_again, read_deployed, recorded_champion, write_deployed
from resources.workspace import Workspace


def test_before_anything_is_deployed_nothing_is_recorded(workspace: Workspace) -> None:
    assert (read_deployed(workspace), recorded_champion(workspace)) == (None, None)


def test_what_was_written_is_the_recorded_champion(workspace: Workspace, deployed: Path) -> None:
    recorded = recorded_champion(workspace)
    assert recorded is not None
    assert (recorded.checkpoint, recorded.folder) == (deployed.name, deployed)
    assert recorded.weights_sha256 == weights_sha256(deployed)


def test_a_record_that_names_no_model_is_refused(workspace: Workspace) -> None:
    write_deployed(workspace, {"checkpoint": "checkpoint-5-abc"})
    with pytest.raises(ArtifactInvalid, match=r"does not say what is deployed \(KeyError\('served_path'\)\)"):
        recorded_champion(workspace)


def test_a_served_folder_that_was_lost_is_brought_over_again(workspace: Workspace, deployed: Path) -> None:
    recorded = recorded_champion(workspace)
    assert recorded is not None
    shutil.rmtree(deployed)
    assert bring_over_again(recorded, workspace) == deployed
    assert weights_sha256(deployed) == recorded.weights_sha256


def test_where_the_checkpoint_is_gone_too_it_cannot_be(workspace: Workspace, deployed: Path) -> None:
    recorded = recorded_champion(workspace)
    assert recorded is not None
    shutil.rmtree(deployed)
    shutil.rmtree(workspace.checkpoints / deployed.name)
    with pytest.raises(ArtifactInvalid, match="is incomplete and is not transferred"):
        bring_over_again(recorded, workspace)
