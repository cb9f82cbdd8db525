"""The base model: the preset made from its seed, or a folder of the user's, which is only read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpu_assets.base_model.describe import (
    PRESETS,
    check_locked,
    describe_base_model,
    ensure_base_model,
    init_model,
    what_base_model_lacks,
)
from gpu_assets.base_model.tiny import write_tiny_model
from gpu_assets.errors import ArtifactInvalid, RenderingError, SettingsError
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Locked, Settings
from resources.artifacts import weights_sha256
from resources.workspace import Workspace


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder as a user has it: without a manifest of ours; read-only by convention."""
    folder = tmp_path_factory.mktemp("users") / "my-model"
    folder.mkdir()
    write_tiny_model(folder, seed=7)
    return folder


@pytest.fixture
def own_folder(plain_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain_model, tmp_path / "my-model")


def using(settings: Settings, folder: Path | str) -> Settings:
    return settings.model_copy(update={"model_path": str(folder)})


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}


# The preset


def test_the_preset_is_made_once_and_then_used_as_it_is(settings: Settings, workspace: Workspace) -> None:
    first = ensure_base_model(settings, workspace)
    before = snapshot(first.folder)
    assert ensure_base_model(settings, workspace) == first
    assert snapshot(first.folder) == before
    assert first.folder.parent == workspace.models


def test_the_same_seed_gives_the_same_files_and_another_seed_other_weights(tiny_folder: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    init_model("tiny", again, seed=42)
    init_model("tiny", other, seed=43)
    same = {path.name for path in tiny_folder.iterdir()} - {"manifest.json"}
    assert all((tiny_folder / name).read_bytes() == (again / name).read_bytes() for name in same)
    assert weights_sha256(other) != weights_sha256(again)
    assert (other / "tokenizer.json").read_bytes() == (again / "tokenizer.json").read_bytes()


def test_making_the_preset_leaves_the_random_numbers_of_others_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    init_model("tiny", tmp_path / "tiny", seed=42)
    assert torch.equal(torch.rand(3), expected)


def test_the_manifest_of_the_preset_says_what_it_is(tiny_folder: Path) -> None:
    manifest = json.loads((tiny_folder / "manifest.json").read_text())
    assert (manifest["kind"], manifest["source"], manifest["seed"]) == ("base_model", "preset:tiny", 42)
    assert manifest["weights_sha256"] == weights_sha256(tiny_folder)
    assert manifest["renderer"]["digest"] == Renderer.load(tiny_folder, "plain").digest
    assert manifest["architecture"] == "Qwen3ForCausalLM"


def test_the_preset_is_the_model_that_the_shipped_configuration_locks(settings: Settings, workspace: Workspace) -> None:
    model = ensure_base_model(settings, workspace)
    assert model.architecture == settings.locked.model_architecture
    assert model.vocab_size == settings.locked.vocab_size
    assert model.max_context_length == settings.locked.max_context_length


@pytest.mark.parametrize("name", PRESETS)
def test_a_real_transformers_loads_the_preset_and_its_tokenizer(name: str, tiny_folder: Path) -> None:
    check_loads(tiny_folder)


def test_an_unknown_preset_is_refused_with_the_known_ones(settings: Settings, workspace: Workspace) -> None:
    with pytest.raises(SettingsError, match="preset 'huge' is unknown; known presets: tiny"):
        ensure_base_model(using(settings, "preset:huge"), workspace)
    assert [path for path in workspace.models.iterdir() if not path.name.startswith(".")] == []


def test_a_folder_that_holds_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="is not empty and holds no model of ours; choose another folder"):
        init_model("tiny", tmp_path, seed=42)
    assert (tmp_path / "notes.txt").read_text() == "mine"


# A folder of the user's


def test_a_plain_folder_is_used_as_it_is_and_nothing_is_written_into_it(
    settings: Settings, workspace: Workspace, plain_model: Path
) -> None:
    before = snapshot(plain_model)
    model = ensure_base_model(using(settings, plain_model), workspace)
    assert snapshot(plain_model) == before
    assert (model.folder, model.name) == (plain_model, "my-model")
    assert model.weights_sha256 == weights_sha256(plain_model)
    assert [path for path in workspace.models.iterdir() if not path.name.startswith(".")] == []


def test_a_real_transformers_loads_what_was_described(
    settings: Settings, workspace: Workspace, plain_model: Path
) -> None:
    check_loads(ensure_base_model(using(settings, plain_model), workspace).folder)


def test_a_relative_path_is_looked_for_under_models(
    settings: Settings, workspace: Workspace, plain_model: Path
) -> None:
    shutil.copytree(plain_model, workspace.models / "mine")
    assert ensure_base_model(using(settings, "mine"), workspace).folder == workspace.models / "mine"


def test_a_model_in_shards_is_one_model_whose_hash_covers_all(
    settings: Settings, workspace: Workspace, own_folder: Path
) -> None:
    whole = describe_base_model(own_folder, settings)
    weights = load_file(own_folder / "model.safetensors")
    (own_folder / "model.safetensors").unlink()
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        save_file({name: weights[name] for name in part}, own_folder / f"model-0000{number}-of-00002.safetensors")
    sharded = ensure_base_model(using(settings, own_folder), workspace)
    assert sharded.weights_sha256 != whole.weights_sha256
    assert sharded.size_bytes == sum(path.stat().st_size for path in own_folder.glob("*.safetensors"))


def test_a_folder_that_is_not_there_is_refused_with_the_way_out(settings: Settings, workspace: Workspace) -> None:
    with pytest.raises(SettingsError, match="model_path is 'nowhere', but .* or set model_path to preset:tiny"):
        ensure_base_model(using(settings, "nowhere"), workspace)


@pytest.mark.parametrize(
    ("missing", "error", "sentence"),
    [
        ("model.safetensors", ArtifactInvalid, "holds no .safetensors file; only safetensors weights are loaded"),
        ("config.json", ArtifactInvalid, "has no config.json: it is not a Hugging Face model folder"),
        ("tokenizer.json", RenderingError, "has no tokenizer.json"),
        ("chat_template.jinja", RenderingError, "template"),
    ],
)
def test_a_folder_without_a_part_of_a_model_is_refused_by_that_part(
    missing: str, error: type[Exception], sentence: str, settings: Settings, own_folder: Path
) -> None:
    (own_folder / missing).unlink()
    with pytest.raises(error, match=sentence):
        describe_base_model(own_folder, settings)


@pytest.mark.parametrize(("content", "sentence"), [("{", "is not JSON"), ("[]", "holds a list, not a JSON object")])
def test_a_config_that_is_not_an_object_is_refused(
    content: str, sentence: str, settings: Settings, own_folder: Path
) -> None:
    (own_folder / "config.json").write_text(content)
    with pytest.raises(ArtifactInvalid, match=sentence):
        describe_base_model(own_folder, settings)


def test_weights_that_are_not_the_manifests_are_refused(settings: Settings, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "tampered")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactInvalid, match="the weights are .* its manifest.json says .*; restore the weights"):
        describe_base_model(folder, settings)


# What is locked


@pytest.mark.parametrize(
    ("locked", "sentence"),
    [
        ({"model_architecture": "LlamaForCausalLM"}, "is 'Qwen3ForCausalLM', locked to 'LlamaForCausalLM'"),
        ({"vocab_size": 151_936}, "vocab_size is 512, locked to 151936"),
        ({"max_context_length": 4096}, "context of 2048 tokens is shorter than max_context_length, locked to 4096"),
    ],
)
def test_a_model_that_is_not_the_locked_one_is_refused_by_the_field(
    locked: dict[str, object], sentence: str, settings: Settings, plain_model: Path
) -> None:
    model = describe_base_model(plain_model, settings)
    with pytest.raises(SettingsError, match=sentence):
        check_locked(model, Locked(**locked))


def test_all_differences_are_named_at_once(settings: Settings, plain_model: Path) -> None:
    model = describe_base_model(plain_model, settings)
    locked = Locked(base_model="big", model_architecture="Other", vocab_size=1, max_context_length=9999)
    with pytest.raises(SettingsError) as raised:
        check_locked(model, locked)
    sentence = str(raised.value)
    assert "is not the locked model 'big'" in sentence
    assert all(field in sentence for field in ("model_architecture", "vocab_size", "max_context_length"))


def test_a_longer_context_than_the_locked_one_is_no_difference(settings: Settings, plain_model: Path) -> None:
    check_locked(describe_base_model(plain_model, settings), Locked(max_context_length=1024))


def test_the_model_is_checked_against_what_is_locked_before_it_is_used(
    settings: Settings, workspace: Workspace, plain_model: Path
) -> None:
    locked = settings.locked.model_copy(update={"vocab_size": 99})
    with pytest.raises(SettingsError, match="Correct model_path or locked in config.json"):
        ensure_base_model(using(settings, plain_model).model_copy(update={"locked": locked}), workspace)


def check_loads(folder: Path) -> None:
    """Transformers itself loads weights and tokenizer, and renders and answers."""
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    messages = [{"role": "user", "content": "add ① and ①"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False)["input_ids"]
    assert ids == Renderer.load(folder, "plain").prompt_ids(messages)
    answer = model.generate(torch.tensor([ids]), max_new_tokens=2, do_sample=False)
    assert answer.shape[1] > len(ids)


# What a sensor can tell without loading it


def test_the_preset_and_a_whole_model_lack_nothing(settings: Settings, workspace: Workspace, plain_model: Path) -> None:
    assert what_base_model_lacks(settings, workspace) is None
    assert what_base_model_lacks(using(settings, plain_model), workspace) is None


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_a_folder_lacks_to_be_a_model_is_named(
    settings: Settings, workspace: Workspace, own_folder: Path, missing: str
) -> None:
    (own_folder / missing).unlink()
    lacking = what_base_model_lacks(using(settings, own_folder), workspace) or ""
    assert str(own_folder) in lacking
    assert Path(missing).suffix in lacking


@pytest.mark.parametrize(
    ("model_path", "sentence"),
    [("preset:huge", "preset 'huge' is unknown"), ("nowhere", "put the model there, or set model_path to preset:tiny")],
)
def test_what_is_configured_wrongly_is_named(
    settings: Settings, workspace: Workspace, model_path: str, sentence: str
) -> None:
    assert sentence in (what_base_model_lacks(using(settings, model_path), workspace) or "")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [({"vocab_size": 7}, "vocab_size is 7, locked to"), ({"vocab_size": "x"}, "is not a model's")],
)
def test_a_config_that_does_not_fit_is_named(
    settings: Settings, workspace: Workspace, own_folder: Path, config: dict[str, object], sentence: str
) -> None:
    path = own_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    assert sentence in (what_base_model_lacks(using(settings, own_folder), workspace) or "")
