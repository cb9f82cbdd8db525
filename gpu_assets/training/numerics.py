"""What of this machine decides the numbers. Torch code: import inside the function that needs it."""

import torch
from accelerate import PartialState
from accelerate.utils import get_int_from_env

from gpu_assets.errors import SettingsError
from gpu_assets.settings import Distributed, Hyperparams
from gpu_assets.training.batches import Layout
from gpu_assets.training.records import Numerics

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torch's and MPI's launchers say how many processes they started."""
ALONE = Distributed()


def numerics_here(hyperparams: Hyperparams, distributed: Distributed = ALONE) -> Numerics:
    """What is trained with here: the device that torch finds, its precision, the layout that suits it, the processes.

    Raises:
        SettingsError: if the training was started in more than one process, or more are wanted than there are GPUs.
    """
    started = get_int_from_env(WORLD_SIZES, 1)
    if started > 1:
        raise SettingsError(
            f"training was started in {started} processes, and each would train by itself: start it without "
            "`accelerate launch`, torchrun or mpirun; it starts its processes itself, as many as distributed.processes"
        )
    device = PartialState().device.type
    if device == "cuda" and distributed.processes > torch.cuda.device_count():
        raise SettingsError(
            f"distributed.processes is {distributed.processes}, but torch finds {torch.cuda.device_count()} GPUs, and "
            "each process has one of its own: lower it, or let this process see more (CUDA_VISIBLE_DEVICES)"
        )
    precision = hyperparams.fp_precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" else "fp32"
    layout: Layout = "packed" if device == "cuda" else "padded"
    if hyperparams.layout != "auto":
        layout = hyperparams.layout
    return Numerics(device, precision, layout, distributed.processes, distributed.sharding)
