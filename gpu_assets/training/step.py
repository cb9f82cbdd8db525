"""One optimizer step over its micro-batches. Torch code: import inside the function that needs it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from gpu_assets.training.batches import Batch, Layout
from gpu_assets.training.loss import collate
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
    finite, which a finite loss does not exclude.
    """
    sequences = run.samples.sequences
    supervised = sum(sequences[index].num_supervised for batch in batches for index in batch)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    total = 0.0
    for batch in batches:
        tensors = collate([sequences[index] for index in batch], run.layout, run.pad_id)
        device = run.accelerator.device
        with run.accelerator.autocast():
            loss = run.loss(tensors.ids_BT.to(device), tensors.positions_BT.to(device), tensors.targets_BT.to(device))
        run.accelerator.backward(loss / supervised)
        total += loss.item()
        for index in batch:
            run.progress.seen[index] += 1
    gradient_norm = float(run.accelerator.clip_grad_norm_(run.loss.parameters(), max_grad_norm))
    if math.isfinite(gradient_norm):
        run.optimizer.step()
    run.optimizer.zero_grad()
    return total / supervised, gradient_norm
