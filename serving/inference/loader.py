"""What a model folder is, before a weight of it is loaded: identity, renderer, and whether to refuse it.

A folder of ours must be what its manifest says; any other Hugging Face folder is taken as it is and
fingerprinted. Knows nothing of torch or of engines.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from gpu_assets.errors import ArtifactInvalid, RenderingError
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Profile
from resources.artifacts import MANIFEST_FILE, is_complete, sha256_json, weights_sha256
from resources.fingerprint import Fingerprint

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
NOT_CONFIGURATION = frozenset({"_commit_hash", "_name_or_path", "transformers_version"})
"""Keys of those files that say where a model comes from, not what it computes."""
CHECKPOINT_NAME = re.compile(r"checkpoint-\d+-[0-9a-f]{8}")


class NotAModelFolder(ArtifactInvalid):
    """There is no model at a path, or it was never completed."""


class _Profile(msgspec.Struct):
    name: str
    version: str


class _Renderer(msgspec.Struct):
    digest: str
    profile: _Profile
    system_prompt: str | None = None


class _Manifest(msgspec.Struct):
    """What serving needs of a manifest."""

    kind: Literal["checkpoint", "base_model"]
    format: Literal[1]
    weights_sha256: str
    architecture: str
    renderer: _Renderer
    step: int | None = None
    fingerprint: Fingerprint | None = None


@dataclass(frozen=True)
class ModelFolder:
    """A folder that may be loaded; `step` is None unless it is a checkpoint.

    `config_sha256` is of what config.json and generation_config.json say: the same weights compute other things under
    another configuration.
    `fingerprint` is None where nobody recorded what the model says.
    """

    path: Path
    weights_sha256: str
    config_sha256: str
    architecture: str
    renderer: Renderer
    step: int | None
    fingerprint: Fingerprint | None = None

    @property
    def name(self) -> str:
        return self.path.name


def inspect_folder(path: Path, profile: Profile) -> ModelFolder:
    """Fingerprint a folder and hold it against its manifest.

    Args:
        profile: shapes the prompts of folders without a manifest.

    Raises:
        NotAModelFolder: if there is no model, or a checkpoint has no manifest.
        ArtifactInvalid: if the folder contradicts its manifest, or has no usable tokenizer or template.
    """
    path = _model_folder(path)
    if is_complete(path):
        return _inspect_ours(path, _read_manifest(path))
    if CHECKPOINT_NAME.fullmatch(path.name):
        raise NotAModelFolder(f"{path} is named as a checkpoint and has no {MANIFEST_FILE}: it was never completed")
    return ModelFolder(
        path=path,
        weights_sha256=weights_sha256(path),
        config_sha256=_config_sha256(path),
        architecture=_architecture(path),
        renderer=_renderer(path, profile.name, profile.system_prompt),
        step=None,
    )


def _model_folder(path: Path) -> Path:
    """The path resolved, if a config.json is there."""
    try:
        path = path.resolve()
        if (path / CONFIG_FILE).is_file():
            return path
        what = "has no config.json" if path.is_dir() else "is not a folder"
    except (OSError, ValueError) as error:
        what = f"is not a path: {error}"
    raise NotAModelFolder(f"{str(path)!r} {what}; give the path of a model folder on the server's host")


def _inspect_ours(path: Path, manifest: _Manifest) -> ModelFolder:
    recorded = manifest.renderer
    renderer = _renderer(path, recorded.profile.name, recorded.system_prompt)
    architecture, weights = _architecture(path), weights_sha256(path)
    config = _config_sha256(path)
    folder = ModelFolder(path, weights, config, architecture, renderer, manifest.step, manifest.fingerprint)
    for what, seen, wanted in (
        ("weights hash", folder.weights_sha256, manifest.weights_sha256),
        ("renderer digest", renderer.digest, recorded.digest),
        ("architecture", folder.architecture, manifest.architecture),
    ):
        if seen != wanted:
            raise ArtifactInvalid(
                f"{path}: its {what} is {seen}, its manifest says {wanted}; it was changed after it was published, "
                "so it is not served. Transfer it again."
            )
    return folder


def _renderer(path: Path, profile: str, system_prompt: str | None) -> Renderer:
    try:
        return Renderer.load(path, profile, system_prompt)
    except RenderingError as error:
        raise ArtifactInvalid(f"{path} cannot be rendered for: {error}") from error


def _read_manifest(path: Path) -> _Manifest:
    try:
        return msgspec.json.decode((path / MANIFEST_FILE).read_bytes(), type=_Manifest)
    except msgspec.DecodeError as error:
        raise ArtifactInvalid(f"{path / MANIFEST_FILE} is not a model's manifest: {error}; nothing is loaded") from None


def _architecture(path: Path) -> str:
    config = _read_config(path / CONFIG_FILE)
    match config.get("architectures"):
        case [str(architecture)]:
            return architecture
        case seen:
            raise NotAModelFolder(f"{path / CONFIG_FILE} names no single architecture: architectures is {seen!r}")


def _config_sha256(path: Path) -> str:
    files = [path / name for name in (CONFIG_FILE, GENERATION_CONFIG_FILE) if (path / name).is_file()]
    said = {file.name: _read_config(file) for file in files}
    return sha256_json(
        {name: {key: config[key] for key in config.keys() - NOT_CONFIGURATION} for name, config in said.items()}
    )


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NotAModelFolder(f"{file} is not readable as JSON: {error}") from None
    if not isinstance(config, dict):
        raise NotAModelFolder(f"{file} holds a JSON {type(config).__name__}, an object is wanted")
    return config
