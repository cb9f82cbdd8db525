"""TRL's `SFTTrainer` on our sequences: the peer of benchmarks and the oracle of tests. Needs the extra `dev`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

from gpu_assets.rendering import Sample


def sft_trainer(
    folder: Path,
    samples: Sequence[Sample],
    work: Path,
    *,
    batch_size: int,
    packed_tokens: int | None = None,
    **more: Any,
) -> SFTTrainer:
    """A trainer in fp32 without recomputation, with fused AdamW and our supervised tokens as its labels.

    Args:
        packed_tokens: pack into rows of so many tokens; None pads rows grouped by length.
        more: over the arguments of `SFTConfig`.
    """
    rows = {
        "input_ids": [list(sample.ids) for sample in samples],
        "labels": [
            [token if supervised else -100 for token, supervised in zip(sample.ids, sample.supervised, strict=True)]
            for sample in samples
        ],
    }
    layout: dict[str, Any] = (
        {"max_length": None, "train_sampling_strategy": "group_by_length"}
        if packed_tokens is None
        else {"max_length": packed_tokens, "packing": True}
    )
    arguments: dict[str, Any] = {
        "output_dir": str(work),
        "per_device_train_batch_size": batch_size,
        "optim": "adamw_torch_fused",
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "activation_checkpointing": False,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **layout,
        **more,
    }
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_dict(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
