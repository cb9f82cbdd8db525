"""A folder is served only if it is what it says it is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import weights_sha256
from serving.inference.loader import NotAModelFolder
from tests.serving.inference.support import Inspect, Models, change_json, write_model

Spoil = Callable[[Path], None]


def alter_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def alter_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("assistant", "helper"))


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def break_tokenizer_config(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{")


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


CONTRADICTIONS: dict[str, tuple[Spoil, str]] = {
    "weights that were altered": (alter_weights, "its weights hash is"),
    "a template that was altered": (alter_template, "its renderer digest is"),
    "another architecture": (lambda f: change_json(f / "config.json", architectures=["LlamaForCausalLM"]), "Llama"),
    "a manifest of other weights": (
        lambda f: change_json(f / "manifest.json", weights_sha256="0" * 64),
        "its weights hash",
    ),
    "a manifest of another kind": (lambda f: change_json(f / "manifest.json", kind="dataset"), "dataset"),
    "a manifest of another format": (lambda f: change_json(f / "manifest.json", format=2), "format"),
    "a manifest that is not JSON": (break_manifest, "manifest.json"),
    "no weights": (remove_weights, "safetensors"),
    "a broken tokenizer": (break_tokenizer, "cannot be rendered"),
    "a broken tokenizer configuration": (break_tokenizer_config, "cannot be rendered"),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_folder_of_ours_is_refused_for(what: str, models: Models, inspect: Inspect, tmp_path: Path) -> None:
    spoil, sentence = CONTRADICTIONS[what]
    folder = tmp_path / "copy"
    shutil.copytree(models.second, folder)
    spoil(folder)
    with pytest.raises(ArtifactInvalid, match=sentence):
        inspect(folder)


def test_a_checkpoint_brings_its_step_its_identity_and_its_renderer(models: Models, inspect: Inspect) -> None:
    folder = inspect(models.second)
    assert (folder.name, folder.step, folder.architecture) == ("second", 20, "Qwen3ForCausalLM")
    assert folder.weights_sha256 == weights_sha256(models.second)
    assert folder.renderer.profile.name == "plain"


def test_any_other_hugging_face_folder_is_fingerprinted(models: Models, inspect: Inspect) -> None:
    folder = inspect(models.plain)
    assert (folder.step, folder.weights_sha256) == (None, weights_sha256(models.plain))


def test_a_folder_named_as_a_checkpoint_needs_its_manifest(inspect: Inspect, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "checkpoint-20-0123abcd", seed=4, step=20)
    assert inspect(folder).step == 20
    (folder / "manifest.json").unlink()
    with pytest.raises(NotAModelFolder, match="never completed"):
        inspect(folder)


@pytest.mark.parametrize(("name", "sentence"), [("missing", "is not a folder"), ("empty", "no config.json")])
def test_a_path_without_a_model_is_refused(name: str, sentence: str, inspect: Inspect, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotAModelFolder, match=sentence):
        inspect(tmp_path / name)
