"""The model that is trained. Torch code: import inside the function that needs it."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from gpu_assets.settings import Hyperparams


def load_model(folder: Path, hyperparams: Hyperparams) -> PreTrainedModel:
    """fp32 weights with SDPA attention, from safetensors in a local folder."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
    )
    if hyperparams.use_gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model
