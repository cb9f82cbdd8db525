"""The asset of the base model stage, at home on the trainer; needs no GPU."""

import dagster as dg

from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.base_model.records import BaseModel
from gpu_assets.errors import PlatformError
from resources.events import failure
from resources.platform import Platform
from resources.routing import Routing

GROUP = "base_model"


def build(routing: Routing) -> list[dg.AssetsDefinition]:
    """The stage's assets, with the trainer's tag."""

    @dg.asset(group_name=GROUP, kinds={"safetensors"}, tags=routing.tags("trainer"))
    def base_model(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """The starting weights: a folder of the user's, fingerprinted, or the built-in tiny Qwen3."""
        try:
            model = ensure_base_model(platform.settings, platform.workspace)
        except PlatformError as error:
            raise failure(context, error) from error
        return dg.MaterializeResult(data_version=dg.DataVersion(model.weights_sha256), metadata=_describe(model))

    return [base_model]


def _describe(model: BaseModel) -> dict[str, dg.MetadataValue | str | int]:
    return {
        "path": dg.MetadataValue.path(model.folder),
        "source": model.source,
        "weights_sha256": model.weights_sha256,
        "architecture": model.architecture,
        "vocab_size": model.vocab_size,
        "max_context_length": model.max_context_length,
        "size_bytes": model.size_bytes,
        "template_sha256": model.renderer.template_sha256,
        "renderer_digest": model.renderer.digest,
        "profile": model.renderer.profile,
    }
