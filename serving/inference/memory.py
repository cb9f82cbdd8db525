"""What a model takes before any of it is loaded, and what is free where it would be.

Imports torch inside the function that looks at its device.
"""

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from gpu_assets.errors import ArtifactInvalid, PlatformError
from gpu_assets.settings import Serving
from resources.artifacts import WEIGHTS_SUFFIX
from serving.inference.loader import CONFIG_FILE

GB = 10**9
Precision = Literal["fp32", "bf16"]
BYTES = {"fp32": 4, "bf16": 2}


class MemoryShort(PlatformError):
    """A model would leave less memory free than must be."""


@dataclass(frozen=True)
class Memory:
    """Where models are held, and the numbers that weights and cache are held in there.

    `free_bytes` gives None where it cannot be known.
    """

    precision: Precision
    free_bytes: Callable[[], int | None]


def shortage(folder: Path, needed: int, free: int, reserve_gb: float, idle: int) -> str:
    """Why a model is not loaded: the bytes that it takes, that are free, and that idle models would give back."""
    return (
        f"{folder} is not loaded: it takes {needed / GB:.2f} GB, weights and cache, and {reserve_gb:g} GB must "
        f"stay free (serving.memory_reserve_gb); {free / GB:.2f} GB are free and idle models hold {idle / GB:.2f} GB. "
        "Unload models that are busy, lower serving.cache_tokens, or end what else uses this memory"
    )


def host_memory() -> Memory:
    """The machine's own, as a CPU uses it."""
    return Memory("fp32", lambda: int(psutil.virtual_memory().available))


def torch_memory() -> Memory:
    """The memory of the device that torch will load models on: the GPU's if there is one, else the machine's."""
    import torch

    if not torch.cuda.is_available():
        return host_memory()

    def free() -> int:
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + unused

    return Memory("bf16", free)


def gpu_memory() -> Memory:
    """The first GPU's, as other processes than this one use it."""
    return Memory("bf16", _nvml_free)


def needed_bytes(folder: Path, precision: Precision, serving: Serving) -> int:
    """Weights and key-value cache; activations, which are small beside them, are left to the reserve.

    Raises:
        ArtifactInvalid: if a weights file has no header.
    """
    size = BYTES[precision]
    return size * (num_weights(folder) + serving.cache_tokens * cache_numbers(folder))


def num_weights(folder: Path) -> int:
    """Parameters by the headers of the safetensors files.

    Raises:
        ArtifactInvalid: if a file has no header.
    """
    return sum(
        math.prod(tensor["shape"])
        for path in sorted(folder.glob(f"*{WEIGHTS_SUFFIX}"))
        for name, tensor in _header(path).items()
        if name != "__metadata__"
    )


def cache_numbers(folder: Path) -> int:
    """Numbers that one token takes in the key-value cache; 0 where config.json does not have what says it."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    heads = config.get("num_attention_heads", 0)
    head_dim = config.get("head_dim") or config.get("hidden_size", 0) // max(1, heads)
    return int(2 * config.get("num_hidden_layers", 0) * (config.get("num_key_value_heads") or heads) * head_dim)


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(min(length, path.stat().st_size)))
    except (struct.error, ValueError) as error:
        raise ArtifactInvalid(f"{path} is no safetensors file: {error}; transfer the model again") from None
    return header


def _nvml_free() -> int | None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).free)
    finally:
        pynvml.nvmlShutdown()
