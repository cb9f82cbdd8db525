"""The starting weights: a folder of the user's, or the built-in preset."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from gpu_assets.base_model.fingerprint import compute_fingerprint
from gpu_assets.base_model.present import base_model_folder
from gpu_assets.base_model.records import BASE_MODEL_KIND, BaseModel, RendererRecord
from gpu_assets.base_model.tiny import write_tiny_model
from gpu_assets.errors import ArtifactInvalid, PlatformError, SettingsError
from gpu_assets.rendering import Renderer
from gpu_assets.settings import PRESET_PREFIX, Locked, Settings
from resources.artifacts import (
    MANIFEST_FILE,
    WEIGHTS_SUFFIX,
    is_complete,
    publishing,
    read_manifest,
    weights_sha256,
    write_json,
)
from resources.clock import utc_now
from resources.workspace import Workspace

PRESETS = ("tiny",)
TOKENIZER_FILE = "tokenizer.json"


def ensure_base_model(settings: Settings, workspace: Workspace) -> BaseModel:
    """The configured base model; a preset that is not there yet is written under `models/`.

    Raises:
        SettingsError: if the preset is unknown, the folder does not exist, or the model is not the
            one that config.json locks.
        ArtifactInvalid: if the folder is not a model, or is not what its manifest says.
    """
    folder = base_model_folder(settings, workspace)
    if settings.uses_preset:
        with FileLock(workspace.models / ".preset.lock"):  # two runs of a first start may want it at once
            if not is_complete(folder):
                init_model(settings.model_path.removeprefix(PRESET_PREFIX), folder, settings.hyperparams.seed)
    else:
        _check_folder(settings, folder)
    model = describe_base_model(folder, settings)
    check_locked(model, settings.locked)
    return model


def what_base_model_lacks(settings: Settings, workspace: Workspace) -> str | None:
    """Why `ensure_base_model` would fail now, as far as file names and config.json tell; None if it may succeed.

    Reads no weights and no tokenizer, so that sensors can ask at every tick.
    """
    folder = base_model_folder(settings, workspace)
    try:
        if settings.uses_preset:
            _check_preset(settings.model_path.removeprefix(PRESET_PREFIX))
            return None
        _check_folder(settings, folder)
        shape = _Shape.read(folder)
        for name in (f"*{WEIGHTS_SUFFIX}", TOKENIZER_FILE):
            if not any(folder.glob(name)):
                return f"{folder} holds no {name}; put the whole model there"
        _check_locked(folder, shape, settings.locked)
    except PlatformError as error:
        return str(error)
    return None


def init_model(preset: str, folder: Path, seed: int) -> dict[str, Any]:
    """Write a preset, manifest included, and return its manifest.

    Raises:
        SettingsError: if the preset is unknown or the folder exists and holds something else.
    """
    _check_preset(preset)
    if folder.exists() and not is_complete(folder) and any(folder.iterdir()):
        raise SettingsError(f"{folder} is not empty and holds no model of ours; choose another folder")
    with publishing(folder) as temporary:
        write_tiny_model(temporary, seed)
        renderer = Renderer.load(temporary, "plain")
        manifest = {
            "kind": BASE_MODEL_KIND,
            "format": 1,
            "name": folder.name,
            "source": f"{PRESET_PREFIX}{preset}",
            "seed": seed,
            "weights_sha256": weights_sha256(temporary),
            "architecture": _read_config(temporary)["architectures"][0],
            "renderer": RendererRecord.of(renderer).to_json(),
            "created_at": utc_now(),
            "fingerprint": compute_fingerprint(temporary, renderer).to_json(),
        }
        write_json(temporary / MANIFEST_FILE, manifest)
    return manifest


def describe_base_model(folder: Path, settings: Settings) -> BaseModel:
    """Fingerprint a model folder; nothing is written into it.

    Raises:
        ArtifactInvalid: if it is not a model, or its weights are not what its manifest says.
    """
    fingerprint = weights_sha256(folder)
    if is_complete(folder):
        recorded = read_manifest(folder, BASE_MODEL_KIND)["weights_sha256"]
        if recorded != fingerprint:
            raise ArtifactInvalid(
                f"{folder}: the weights are {fingerprint[:8]}, its {MANIFEST_FILE} says {recorded[:8]}; restore the "
                "weights, or delete the folder"
            )
    shape = _Shape.read(folder)
    renderer = Renderer.load(folder, settings.profile.name, settings.profile.system_prompt)
    return BaseModel(
        name=folder.name,
        folder=folder,
        source=settings.model_path,
        weights_sha256=fingerprint,
        renderer=RendererRecord.of(renderer),
        architecture=shape.architecture,
        max_context_length=shape.max_context_length,
        vocab_size=shape.vocab_size,
        size_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
    )


def check_locked(model: BaseModel, locked: Locked) -> None:
    """Compare the model that is really there with what config.json locks.

    Raises:
        SettingsError: naming every field that differs, what was seen and what is locked.
    """
    _check_locked(model.folder, _Shape(model.architecture, model.vocab_size, model.max_context_length), locked)


@dataclass(frozen=True)
class _Shape:
    """What config.json says of a model, as far as it is locked."""

    architecture: str
    vocab_size: int
    max_context_length: int

    @classmethod
    def read(cls, folder: Path) -> "_Shape":
        config = _read_config(folder)
        try:
            return cls(
                architecture=str((config.get("architectures") or ["unknown"])[0]),
                vocab_size=int(config.get("vocab_size", 0)),
                max_context_length=int(config.get("max_position_embeddings", 0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactInvalid(f"{folder / 'config.json'} is not a model's: {error}") from None


def _check_locked(folder: Path, shape: _Shape, locked: Locked) -> None:
    differences = []
    if shape.architecture != locked.model_architecture:
        differences.append(f"model_architecture is {shape.architecture!r}, locked to {locked.model_architecture!r}")
    if shape.vocab_size != locked.vocab_size:
        differences.append(f"vocab_size is {shape.vocab_size}, locked to {locked.vocab_size}")
    if shape.max_context_length < locked.max_context_length:
        differences.append(
            f"the context of {shape.max_context_length} tokens is shorter than max_context_length, "
            f"locked to {locked.max_context_length}"
        )
    if differences:
        raise SettingsError(
            f"{folder} is not the locked model {locked.base_model!r}: {'; '.join(differences)}. "
            "Correct model_path or locked in config.json."
        )


def _check_preset(preset: str) -> None:
    if preset not in PRESETS:
        raise SettingsError(f"preset {preset!r} is unknown; known presets: {', '.join(PRESETS)}")


def _check_folder(settings: Settings, folder: Path) -> None:
    if not folder.is_dir():
        raise SettingsError(
            f"model_path is {settings.model_path!r}, but {folder} is not a folder; put the model there, "
            f"or set model_path to {PRESET_PREFIX}tiny"
        )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactInvalid(f"{folder} has no config.json: it is not a Hugging Face model folder") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactInvalid(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ArtifactInvalid(f"{path} holds a {type(config).__name__}, not a JSON object")
    return config
