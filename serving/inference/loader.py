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
from resources.artifacts import MANIFEST_FILE, is_complete, weights_sha256
from resources.fingerprint import Fingerprint

CONFIG_FILE = "config.json"
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

    `fingerprint` is None where nobody recorded what the model says.
    """

    path: Path
    weights_sha256: str
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
    folder = ModelFolder(path, weights, architecture, renderer, manifest.step, manifest.fingerprint)
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
    try:
        config: Any = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        (architecture,) = config["architectures"]
    except (ValueError, KeyError, TypeError) as error:
        raise NotAModelFolder(f"{path / CONFIG_FILE} names no single architecture: {error!r}") from None
    return str(architecture)
