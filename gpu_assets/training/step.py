"""One optimizer step over its micro-batches. Torch code: import inside the function that needs it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from gpu_assets.errors import OutOfMemory
from gpu_assets.training.batches import Batch, Layout
from gpu_assets.training.loss import collate
from gpu_assets.training.optimizers import set_rate
from gpu_assets.training.progress import Progress
from gpu_assets.training.samples import Samples


@dataclass(frozen=True)
class Run:
    """The moving parts of one training run, after `accelerate` has prepared them."""

    accelerator: Accelerator
    loss: torch.nn.Module
    optimizer: torch.optim.Optimizer
    progress: Progress
    samples: Samples
    steps: Sequence[tuple[Batch, ...]]
    layout: Layout
    pad_id: int


def optimizer_step(run: Run, batches: Sequence[Batch], rate: float, max_grad_norm: float) -> tuple[float, float]:
    """One optimizer step over its micro-batches; the mean loss a supervised token, and the gradient's norm.

    Each micro-batch's summed loss is divided by the whole step's supervised tokens, so accumulation
    weighs tokens and not micro-batches. The weights stay as they are where the gradient is not
    finite, which a finite loss does not exclude. A step that runs out of memory in its micro-batches has
    changed nothing but gradients.
    """
    sequences, device = run.samples.sequences, run.accelerator.device
    collated = [collate([sequences[index] for index in batch], run.layout, run.pad_id) for batch in batches]
    supervised = sum(len(tensors.targets_S) for tensors in collated)
    set_rate(run.optimizer, rate)
    losses = []
    for tensors in collated:
        with run.accelerator.autocast():
            loss = run.loss(*tensors.to(device))
        run.accelerator.backward(loss / supervised)
        losses.append(loss.detach())
    total = sum(loss.item() for loss in losses)  # here, not in the loop: each waits for the device
    gradient_norm = float(run.accelerator.clip_grad_norm_(run.loss.parameters(), max_grad_norm))
    if math.isfinite(gradient_norm):
        _update(run)
    run.optimizer.zero_grad()
    for batch in batches:
        for index in batch:
            run.progress.seen[index] += 1
    return total / supervised, gradient_norm


def _update(run: Run) -> None:
    """Step the optimizer, whose states a smaller micro-batch would not make smaller.

    Raises:
        OutOfMemory: where the states do not fit; the weights may be updated in part.
    """
    try:
        run.optimizer.step()
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"the optimizer's states do not fit the memory of {run.accelerator.device}: {error}. Take another "
            "hyperparams.optimizer.type or lora.rank; `gpu-assets plan` says what fits"
        ) from error
