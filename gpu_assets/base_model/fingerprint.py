"""Fingerprints of model folders. Imports torch inside the function."""

import math
from pathlib import Path

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.rendering import Renderer
from resources.fingerprint import CONTINUATION, CUTS, TOP, Fingerprint, PromptFingerprint, smoke_conversations

DECIMALS = 5
"""Finer than what another machine's order of summation makes of it."""


def compute_fingerprint(folder: Path, renderer: Renderer) -> Fingerprint:
    """What the model in a folder says to the smoke prompts: plain forward passes in float32 on the CPU.

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
    prompts, (answer,) = list[PromptFingerprint](), renderer.encode_batch([CONTINUATION])
    for conversation in smoke_conversations():
        ids = renderer.prompt_ids(conversation)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids + answer[: max(CUTS)]]), use_cache=False).logits[0]
        for cut in CUTS:
            next_logits = logits[len(ids) + cut - 1].float()
            likeliest = next_logits.log_softmax(dim=-1).topk(min(TOP, len(next_logits)))
            logprobs = [round(value, DECIMALS) for value in likeliest.values.tolist()]
            if not all(map(math.isfinite, logprobs)):
                raise ArtifactInvalid(f"{folder}: its model computes numbers that are not finite; it is not published")
            next_tokens = list(zip(likeliest.indices.tolist(), logprobs, strict=True))
            prompts.append(PromptFingerprint(ids + answer[:cut], next_tokens))
    return Fingerprint(prompts)
