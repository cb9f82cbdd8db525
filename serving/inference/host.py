"""What the server runs on: versions, GPUs, the machine. Looks at each call; imports neither torch nor transformers."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil
import pynvml

from serving.inference.management import Gpu, Gpus, Host, Versions

CUDA_PACKAGES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")
Fact = TypeVar("Fact")


def versions(version: str) -> Versions:
    """What is installed beside the server, whose version this is."""
    return Versions(
        version=version,
        api="v1",
        python=platform.python_version(),
        torch=_installed("torch"),
        transformers=_installed("transformers"),
        cuda=next((found for package in CUDA_PACKAGES if (found := _installed(package)) is not None), None),
        vllm=_installed("vllm"),
    )


def gpus() -> Gpus:
    """NVIDIA's GPUs of this machine."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Gpus(available=False, why=f"NVIDIA's management library: {error}")
    try:
        found = [_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        why = None if found else "the driver has no GPU"
        return Gpus(available=bool(found), why=why, driver_version=driver, device_count=len(found), gpus=found)
    except pynvml.NVMLError as error:
        return Gpus(available=False, why=f"NVIDIA's management library: {error}")
    finally:
        pynvml.nvmlShutdown()


def host(home: Path) -> Host:
    """The machine and this process."""
    process, memory = psutil.Process(), psutil.virtual_memory()
    disk = psutil.disk_usage(str(next(folder for folder in (home, *home.parents) if folder.exists())))
    load_1m, load_5m, load_15m = os.getloadavg()
    return Host(
        cpu_count=psutil.cpu_count() or 1,
        cpu_percent=psutil.cpu_percent(interval=None),
        load_1m=load_1m,
        load_5m=load_5m,
        load_15m=load_15m,
        memory_total_bytes=memory.total,
        memory_available_bytes=memory.available,
        disk_total_bytes=disk.total,
        disk_free_bytes=disk.free,
        process_rss_bytes=process.memory_info().rss,
        process_threads=process.num_threads(),
        uptime_s=round(time.time() - process.create_time(), 3),
    )


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    power = _told(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    limit = _told(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    return Gpu(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(handle)),
        memory_total_bytes=int(memory.total),
        memory_used_bytes=int(memory.used),
        memory_free_bytes=int(memory.free),
        utilization_percent=_told(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        temperature_celsius=_told(lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))),
        power_watts=None if power is None else power / 1000,
        power_limit_watts=None if limit is None else limit / 1000,
    )


def _told(ask: Callable[[], Fact]) -> Fact | None:
    """What a GPU tells, or None where its kind does not."""
    with suppress(pynvml.NVMLError):
        return ask()
    return None


def _installed(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
