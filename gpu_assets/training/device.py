"""What the device can do and holds. Torch code: import inside the function that needs it."""

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from functools import lru_cache

import psutil
import torch

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.training.memory import Setup, require_fit
from gpu_assets.training.records import TrainingPlan
from gpu_assets.training.shapes import ModelShape

MATMUL_SIZE = {"cuda": 8192, "cpu": 640}
"""Rows and columns: large enough to be near the device's best, small enough to take under a tenth of a second."""
REPEATS = 5
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@lru_cache(maxsize=8)
def matmul_peak(device: str, precision: str, threads: int) -> float:
    """The fastest of a few square matrix products, in floating-point operations a second; measured once a process.

    The random state that training uses is not touched.

    Args:
        device: torch's type, or type and index.
        precision: bf16 or fp32, as training computes.
        threads: of torch; part of what is measured on a CPU.
    """
    kind = torch.device(device).type
    size = MATMUL_SIZE.get(kind, 2048)
    generator = torch.Generator(device).manual_seed(0)
    factors = [torch.randn(size, size, generator=generator, device=device).to(DTYPES[precision]) for _ in range(2)]
    with torch.no_grad():
        fastest = min(_seconds(lambda: factors[0] @ factors[1], kind) for _ in range(REPEATS))
    return float(2 * size**3 / fastest)


def device_name(device: torch.device) -> str:
    """The product's name, such as NVIDIA GeForce RTX 4090."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held on the device so far; on a CPU, its largest resident size."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_bytes(device: torch.device) -> int:
    """What this process may use: the free and own part of a GPU, up to its cap if it has one; or the host's memory."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        cap = total * torch.cuda.get_per_process_memory_fraction(device)
        return int(min(free + torch.cuda.memory_reserved(device), cap))
    return int(psutil.virtual_memory().total)


def require_memory(plan: TrainingPlan, report: Callable[[str], None]) -> None:
    """Refuse a plan that the device's memory cannot hold, before anything is loaded; models of unknown shape may try.

    On a CPU the limit is all of the host's memory, since pages that nobody needs can make room; processes share it.

    Raises:
        OutOfMemory: with the peak that is foreseen, and the settings to change.
    """
    try:
        shape = ModelShape.read(plan.parent.folder)
    except ArtifactInvalid:
        return
    numerics = plan.numerics
    device, on_gpu = torch.device(numerics.device), numerics.device == "cuda"
    setup = Setup(shape, plan.hyperparams, numerics.precision, "cuda" if on_gpu else "cpu", numerics.shards)
    budget = memory_bytes(device) if on_gpu else memory_bytes(device) // numerics.processes
    require_fit(setup, budget, device_name(device), report)


def _seconds(work: Callable[[], torch.Tensor], kind: str) -> float:
    _wait(kind)
    begun = time.perf_counter()
    work()
    _wait(kind)
    return time.perf_counter() - begun


def _wait(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.synchronize()
