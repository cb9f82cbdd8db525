"""Fingerprints of model folders. Imports torch inside the function."""

import math
from pathlib import Path

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.rendering import Renderer
from resources.fingerprint import TOP, Fingerprint, PromptFingerprint, smoke_conversations

DECIMALS = 5
"""Finer than what another machine's order of summation makes of it."""


def compute_fingerprint(folder: Path, renderer: Renderer) -> Fingerprint:
    """What the model in a folder says to the smoke prompts: a plain forward pass in float32 on the CPU.

    Loads the weights as they were saved, whatever they were trained in.

    Raises:
        ArtifactInvalid: if what it says is not finite.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
    ).eval()
    prompts = []
    for conversation in smoke_conversations():
        ids = renderer.prompt_ids(conversation)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        likeliest = logits.float().log_softmax(dim=-1).topk(min(TOP, logits.shape[-1]))
        logprobs = [round(value, DECIMALS) for value in likeliest.values.tolist()]
        if not all(map(math.isfinite, logprobs)):
            raise ArtifactInvalid(f"{folder}: its model computes numbers that are not finite; it is not published")
        prompts.append(PromptFingerprint(ids, list(zip(likeliest.indices.tolist(), logprobs, strict=True))))
    return Fingerprint(prompts)
