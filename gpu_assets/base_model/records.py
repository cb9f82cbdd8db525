"""What the base model stage reads and writes, as values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_assets.rendering import Renderer

BASE_MODEL_KIND = "base_model"


@dataclass(frozen=True)
class RendererRecord:
    """What decides the tokens of a conversation, as manifests keep it."""

    digest: str
    template_sha256: str
    profile: str
    profile_version: str
    system_prompt: str | None

    @classmethod
    def of(cls, renderer: Renderer) -> "RendererRecord":
        return cls(
            digest=renderer.digest,
            template_sha256=renderer.template_sha256,
            profile=renderer.profile.name,
            profile_version=renderer.profile.version,
            system_prompt=renderer.system_prompt,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "digest": self.digest,
            "template_sha256": self.template_sha256,
            "profile": {"name": self.profile, "version": self.profile_version},
            "system_prompt": self.system_prompt,
        }


@dataclass(frozen=True)
class BaseModel:
    """The starting weights of a line."""

    name: str
    folder: Path
    source: str
    weights_sha256: str
    renderer: RendererRecord
    architecture: str
    max_context_length: int
    vocab_size: int
    size_bytes: int
