"""The model that is trained. Torch code: import inside the function that needs it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from gpu_assets.errors import ModelUnsupported
from gpu_assets.settings import Hyperparams
from gpu_assets.training.attention import SDPA

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_model(folder: Path, hyperparams: Hyperparams, attention: str = SDPA) -> PreTrainedModel:
    """The weights in a local folder's safetensors, as the hyperparams say: precision, adapters, compiled or not.

    New adapters are drawn from torch's random state.

    Raises:
        ModelUnsupported: if transformers does not know the model, or not with this attention.
    """
    disable_progress_bar()
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=PRECISIONS[hyperparams.weights_precision],
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
        )
    except ValueError as error:
        raise ModelUnsupported(
            f"the model in {folder} cannot be trained with {attention} attention: {error}. Nothing was trained; take a "
            "model of another family"
        ) from error
    if hyperparams.lora.rank:
        _add_adapters(model, hyperparams)
    if hyperparams.use_gradient_checkpointing:
        model.activation_checkpointing_enable()
    if hyperparams.compile:
        model.base_model.compile(dynamic=True)  # in place: the names of the weights stay
    return model


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write whole weights; adapters, if there are any, are merged into them first, in the model itself."""
    _merge_adapters(model)
    model.save_pretrained(folder)


def _add_adapters(model: PreTrainedModel, hyperparams: Hyperparams) -> None:
    """Adapters on every linear layer but the head; all other weights are frozen."""
    from peft import LoraConfig, inject_adapter_in_model

    lora = hyperparams.lora
    head = model.get_output_embeddings()
    targets = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    scaled_by = lora.alpha  # peft annotates an int and divides it by the rank
    config = LoraConfig(r=lora.rank, lora_alpha=scaled_by, target_modules=targets)  # type: ignore[arg-type]
    inject_adapter_in_model(config, model)


def _merge_adapters(model: PreTrainedModel) -> None:
    """Put plain layers with the adapted weights in the place of the adapted ones.

    Each is computed in fp32 and rounded once: in bf16 the product of the adapters would be rounded before it is added.
    """
    for parent, name, layer in _adapted_layers(model):
        base = layer.get_base_layer()
        dtype = base.weight.dtype
        layer.float().merge()
        setattr(parent, name, base.to(dtype))


def _adapted_layers(model: PreTrainedModel) -> list[tuple[nn.Module, str, Any]]:
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if hasattr(child, "get_base_layer")
    ]
