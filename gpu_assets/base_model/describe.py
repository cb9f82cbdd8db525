"""The starting weights: a folder of the user's, or the built-in preset."""

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from gpu_assets.base_model.records import BASE_MODEL_KIND, BaseModel, RendererRecord
from gpu_assets.base_model.tiny import write_tiny_model
from gpu_assets.errors import ArtifactInvalid, SettingsError
from gpu_assets.rendering import Renderer
from gpu_assets.settings import PRESET_PREFIX, Locked, Settings
from resources.artifacts import MANIFEST_FILE, is_complete, publishing, read_manifest, weights_sha256, write_json
from resources.clock import utc_now
from resources.workspace import Workspace

PRESETS = ("tiny",)


def ensure_base_model(settings: Settings, workspace: Workspace) -> BaseModel:
    """The configured base model; a preset that is not there yet is written under `models/`.

    Raises:
        SettingsError: if the preset is unknown, the folder does not exist, or the model is not the
            one that config.json locks.
        ArtifactInvalid: if the folder is not a model, or is not what its manifest says.
    """
    if settings.uses_preset:
        preset = settings.model_path.removeprefix(PRESET_PREFIX)
        seed = settings.hyperparams.seed
        folder = workspace.models / f"{preset}-seed{seed}"
        with FileLock(workspace.models / ".preset.lock"):  # two runs of a first start may want it at once
            if not is_complete(folder):
                init_model(preset, folder, seed)
    else:
        folder = (workspace.models / settings.model_path).resolve()
        if not folder.is_dir():
            raise SettingsError(
                f"model_path is {settings.model_path!r}, but {folder} is not a folder; put the model there, "
                f"or set model_path to {PRESET_PREFIX}tiny"
            )
    model = describe_base_model(folder, settings)
    check_locked(model, settings.locked)
    return model


def init_model(preset: str, folder: Path, seed: int) -> dict[str, Any]:
    """Write a preset, manifest included, and return its manifest.

    Raises:
        SettingsError: if the preset is unknown or the folder exists and holds something else.
    """
    if preset not in PRESETS:
        raise SettingsError(f"preset {preset!r} is unknown; known presets: {', '.join(PRESETS)}")
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
    config = _read_config(folder)
    renderer = Renderer.load(folder, settings.profile.name, settings.profile.system_prompt)
    return BaseModel(
        name=folder.name,
        folder=folder,
        source=settings.model_path,
        weights_sha256=fingerprint,
        renderer=RendererRecord.of(renderer),
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        max_context_length=int(config.get("max_position_embeddings", 0)),
        vocab_size=int(config.get("vocab_size", 0)),
        size_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
    )


def check_locked(model: BaseModel, locked: Locked) -> None:
    """Compare the model that is really there with what config.json locks.

    Raises:
        SettingsError: naming every field that differs, what was seen and what is locked.
    """
    differences = []
    if model.architecture != locked.model_architecture:
        differences.append(f"model_architecture is {model.architecture!r}, locked to {locked.model_architecture!r}")
    if model.vocab_size != locked.vocab_size:
        differences.append(f"vocab_size is {model.vocab_size}, locked to {locked.vocab_size}")
    if model.max_context_length < locked.max_context_length:
        differences.append(
            f"the context of {model.max_context_length} tokens is shorter than max_context_length, "
            f"locked to {locked.max_context_length}"
        )
    if differences:
        raise SettingsError(
            f"{model.folder} is not the locked model {locked.base_model!r}: {'; '.join(differences)}. "
            "Correct model_path or locked in config.json."
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
