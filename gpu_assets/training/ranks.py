"""What the processes of one training agree on; a process alone agrees with itself. Torch code: import lazily.

Each function but the first is a collective: all processes call it, in the same order.
"""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list


def is_alone(accelerator: Accelerator) -> bool:
    """Whether there is one process only."""
    return bool(accelerator.num_processes == 1)


def summed(accelerator: Accelerator, values: Sequence[float]) -> list[float]:
    """The values' sums over the processes, the same in each to the last bit; they may be infinite or no numbers."""
    if is_alone(accelerator):
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    torch.distributed.all_reduce(sums)
    found: list[float] = sums.tolist()
    return found


def any_says(accelerator: Accelerator, mine: bool) -> bool:
    """Whether it is so in any process."""
    return summed(accelerator, [float(mine)])[0] > 0


def first_says(accelerator: Accelerator, mine: str | None) -> str | None:
    """What the first process passes here, whatever the others do."""
    said: list[str | None] = [mine]
    broadcast_object_list(said)
    return said[0]
