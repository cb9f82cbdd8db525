"""A server serves what is recorded as deployed, and starts whatever is wrong with it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_assets.settings import Settings
from resources.artifacts import weights_sha256, write_json
from resources.deployed import deployed_folder, write_deployed
from resources.workspace import Workspace
from serving.inference.loader import ModelFolder
from serving.inference.pool import ModelPool, NoChampion
from serving.inference.recorded import serve_recorded
from tests.serving.inference.support import (
    READ_KEY,
    ScriptedEngine,
    error_of,
    ready_server,
    run,
    start_server,
    write_model,
)


@pytest.fixture
def deployed(workspace: Workspace) -> Path:
    return deploy(workspace)


def deploy(workspace: Workspace) -> Path:
    """A deployed model, whose checkpoint is still there; its folder on the inference host."""
    checkpoint = write_model(workspace.checkpoints / "checkpoint-5-0123abcd", seed=4, step=5)
    served = workspace.served_models / checkpoint.name
    shutil.copytree(checkpoint, served)
    record = {"checkpoint": checkpoint.name, "served_path": str(served), "weights_sha256": weights_sha256(served)}
    write_deployed(workspace, record)
    return served


def serve(settings: Settings) -> ModelPool:
    pool = ModelPool(settings, lambda folder: ScriptedEngine([1]))
    run(serve_recorded(pool))
    return pool


def test_before_anything_is_deployed_there_is_no_model_and_nothing_is_wrong(settings: Settings) -> None:
    pool = serve(settings)
    assert (pool.champion, pool.unserved_because) == (None, "")


def test_what_is_recorded_is_the_champion_and_the_platforms(settings: Settings, deployed: Path) -> None:
    champion = serve(settings).require_ready()
    assert (champion.folder.path, champion.owner) == (deployed, "platform")


def lose(folder: Path) -> None:
    shutil.rmtree(folder)


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def change_the_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.unlink()
    path.write_bytes(b"other")


@pytest.mark.parametrize("spoil", [lose, lose_the_manifest, change_the_weights])
def test_a_served_folder_that_is_not_as_it_should_be_is_brought_over_again(
    spoil: Callable[[Path], None], settings: Settings, deployed: Path
) -> None:
    recorded = weights_sha256(deployed)
    spoil(deployed)
    assert serve(settings).require_ready().weights_sha256 == recorded == weights_sha256(deployed)


def test_other_weights_than_the_recorded_are_not_served(
    settings: Settings, deployed: Path, workspace: Workspace
) -> None:
    shutil.rmtree(deployed)
    write_model(deployed, seed=7, step=5)
    shutil.rmtree(workspace.checkpoints / deployed.name)
    pool = serve(settings)
    with pytest.raises(NoChampion, match="has no manifest.json"):
        pool.require_ready()


@pytest.mark.parametrize("record", [{"kind": "deployment", "format": 1}, {"kind": "something"}])
def test_a_record_that_says_nothing_is_a_sentence(
    record: dict[str, object], settings: Settings, workspace: Workspace
) -> None:
    deployed_folder(workspace).mkdir(parents=True)
    write_json(deployed_folder(workspace) / "manifest.json", record)
    with pytest.raises(NoChampion, match="manifest.json"):
        serve(settings).require_ready()


def test_an_engine_that_fails_in_an_unforeseen_way_does_not_keep_the_server_from_starting(
    settings: Settings, deployed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: ModelFolder) -> ScriptedEngine:
        raise ZeroDivisionError("in the driver")

    pool = ModelPool(settings, fail)
    run(serve_recorded(pool))
    with pytest.raises(NoChampion, match="in the driver"):
        pool.require_ready()
    assert "the server starts without a model" in caplog.text


def test_the_process_serves_the_record_and_says_why_it_does_not(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home").create()
    served = deploy(workspace)
    with ready_server(tmp_path) as server:
        ready = server.request("GET", "/ready", key=None)
        assert (ready.status_code, ready.json()["weights_sha256"]) == (200, weights_sha256(served))
        server.process.kill()
        server.process.wait()
    with ready_server(tmp_path) as server:
        assert server.request("GET", "/ready", key=None).json()["weights_sha256"] == weights_sha256(served)
    shutil.rmtree(served)
    shutil.rmtree(workspace.checkpoints / served.name)
    server = start_server(tmp_path)
    try:
        server.wait_loaded()
        ready = server.request("GET", "/ready", key=None)
        assert (ready.status_code, error_of(ready)["code"]) == (503, "no_model")
        assert f"checkpoints/{served.name} has no manifest.json" in error_of(ready)["message"]
        assert str(tmp_path) not in error_of(ready)["message"]
        assert server.request("GET", "/models/active", key=READ_KEY).json()["active_model"] is None
        assert "the server starts without a model" in server.output.read_text()
    finally:
        server.stop()
