"""What of this machine decides the numbers. Torch code: import inside the function that needs it."""

from accelerate import PartialState
from accelerate.utils import get_int_from_env

from gpu_assets.errors import SettingsError
from gpu_assets.settings import Hyperparams
from gpu_assets.training.records import Numerics

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torch's and MPI's launchers say how many processes they started."""


def numerics_here(hyperparams: Hyperparams) -> Numerics:
    """What this process trains with: the device that torch finds, its precision, and the layout that suits it.

    Raises:
        SettingsError: if the training was started in more than one process.
    """
    processes = get_int_from_env(WORLD_SIZES, 1)
    if processes > 1:
        raise SettingsError(
            f"training was started in {processes} processes; one process on one device is supported: start it without "
            "`accelerate launch`, torchrun or mpirun, or with one process"
        )
    device = PartialState().device.type
    precision = hyperparams.fp_precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" else "fp32"
    return Numerics(device, precision, layout="packed" if device == "cuda" else "padded")
