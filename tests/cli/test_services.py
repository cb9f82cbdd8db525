"""What the inference server is started with."""

import shutil
from pathlib import Path

import pytest

from gpu_assets.base_model.describe import init_model
from gpu_assets.cli.services import served_model
from resources.artifacts import weights_sha256
from resources.deployed import write_deployed
from resources.workspace import Workspace


@pytest.fixture
def deployed(workspace: Workspace) -> Path:
    """A deployed model, whose checkpoint is still there; its folder on the inference host."""
    checkpoint = workspace.checkpoints / "checkpoint-5-abc"
    init_model("tiny", checkpoint, 1)
    served = workspace.served_models / checkpoint.name
    shutil.copytree(checkpoint, served)
    record = {"checkpoint": checkpoint.name, "served_path": str(served), "weights_sha256": weights_sha256(served)}
    write_deployed(workspace, record)
    return served


def test_before_anything_is_deployed_the_server_starts_without_a_model(workspace: Workspace) -> None:
    assert served_model(workspace) is None


def test_what_is_deployed_is_served(workspace: Workspace, deployed: Path) -> None:
    assert served_model(workspace) == deployed


def test_a_served_folder_that_was_lost_is_brought_over_again(workspace: Workspace, deployed: Path) -> None:
    shutil.rmtree(deployed)
    assert served_model(workspace) == deployed
    assert (deployed / "manifest.json").is_file()


def test_where_the_checkpoint_is_gone_too_the_server_starts_without_a_model_and_says_why(
    workspace: Workspace, deployed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(deployed)
    shutil.rmtree(workspace.checkpoints / deployed.name)
    assert served_model(workspace) is None
    assert "cannot be brought over again" in capsys.readouterr().err
