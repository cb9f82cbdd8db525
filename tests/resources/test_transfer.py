"""Transfer: whole or not at all, and only what was published."""

import shutil
from pathlib import Path

import pytest

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import is_complete, read_manifest, weights_sha256
from resources.transfer import transfer_model


@pytest.fixture
def source(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "checkpoints" / "model")


def test_a_model_arrives_complete_and_a_second_transfer_does_nothing(source: Path, tmp_path: Path) -> None:
    expected = weights_sha256(source)
    target = transfer_model(source, tmp_path / "served", expected)
    assert weights_sha256(target) == expected == read_manifest(target, "base_model")["weights_sha256"]
    before = target.stat().st_ino
    assert transfer_model(source, tmp_path / "served", expected) == target
    assert target.stat().st_ino == before


def test_the_same_name_with_other_weights_replaces_what_was_there(source: Path, tmp_path: Path) -> None:
    first = transfer_model(source, tmp_path / "served", weights_sha256(source))
    old = weights_sha256(first)
    weights = source / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(bytes(content))
    second = transfer_model(source, tmp_path / "served", weights_sha256(source))
    assert second == first
    assert weights_sha256(second) != old


def test_weights_that_are_not_the_expected_ones_never_arrive(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactInvalid, match="changed after it was published"):
        transfer_model(source, tmp_path / "served", "0" * 64)
    assert not list((tmp_path / "served").iterdir())


def test_an_incomplete_checkpoint_is_not_transferred(source: Path, tmp_path: Path) -> None:
    (source / "manifest.json").unlink()
    assert not is_complete(source)
    with pytest.raises(ArtifactInvalid, match="incomplete and is not transferred"):
        transfer_model(source, tmp_path / "served", "0" * 64)
