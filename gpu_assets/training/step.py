"""One optimizer step over its micro-batches. Torch code: import inside the function that needs it."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from gpu_assets.errors import OutOfMemory
from gpu_assets.rendering import Sample
from gpu_assets.training.batches import Batch, Layout, share
from gpu_assets.training.loss import Tensors, collate
from gpu_assets.training.optimizers import set_rate
from gpu_assets.training.progress import Progress
from gpu_assets.training.ranks import is_alone, summed
from gpu_assets.training.samples import Samples
from gpu_assets.training.sharding import whole


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
    weighs tokens and not micro-batches. Several processes take a share of the micro-batches each, and come to the
    same loss and norm. The weights stay as they are where the gradient is not finite, which a finite loss does not
    exclude. A step that runs out of memory in its micro-batches has changed nothing but gradients.
    """
    accelerator = run.accelerator
    collated = _own_tensors(run, batches)
    supervised = sum(_num_targets(run.samples.sequences[index]) for batch in batches for index in batch)
    set_rate(run.optimizer, rate)
    losses = []
    for place, tensors in enumerate(collated, start=1):
        with _summing_gradients(run.loss, now=place == len(collated)):
            with accelerator.autocast():
                loss = run.loss(*tensors.to(accelerator.device))
            # Times the number of processes, by whose number the sum of their gradients is divided.
            accelerator.backward(loss / (supervised / accelerator.num_processes))
        losses.append(loss.detach())
    own = sum(loss.item() for loss in losses)  # here, not in the loop: each waits for the device
    norm = whole(accelerator.clip_grad_norm_(run.loss.parameters(), max_grad_norm)).item()
    total, gradient_norm = summed(accelerator, [own, norm if accelerator.is_main_process else 0.0])
    if math.isfinite(gradient_norm):
        _update(run)
    run.optimizer.zero_grad()
    for batch in batches:
        for index in batch:
            run.progress.seen[index] += 1
    return total / supervised, gradient_norm


def settle(run: Run) -> None:
    """Have whole models in several processes settle in which groups they sum gradients, before the first step.

    They do so by their first backward pass, here of nothing; otherwise the first step after a resume point would sum in
    another order than the same step of an undisturbed run.
    """
    if isinstance(run.loss, DistributedDataParallel):
        for tensors in _own_tensors(run, [()]):
            run.accelerator.backward(run.loss(*tensors.to(run.accelerator.device)))
        run.optimizer.zero_grad()


def _own_tensors(run: Run, batches: Sequence[Batch]) -> list[Tensors]:
    """This process's micro-batches, as many as any other's: one without rows is a position that predicts nothing."""
    accelerator, nothing = run.accelerator, Sample((run.pad_id,), (False,))
    own = list(batches)
    if not is_alone(accelerator):
        own = share(batches, accelerator.num_processes, accelerator.process_index)
    rows = ([run.samples.sequences[index] for index in batch] or [nothing] for batch in own)
    return [collate(samples, run.layout, run.pad_id) for samples in rows]


def _num_targets(sample: Sample) -> int:
    """Supervised tokens that something is before."""
    return sample.num_supervised - sample.supervised[0]


def _summing_gradients(loss: torch.nn.Module, *, now: bool) -> AbstractContextManager[None]:
    """Whole gradients are summed over the processes once a step; parts of them with each micro-batch."""
    if isinstance(loss, DistributedDataParallel) and not now:
        return loss.no_sync()
    return nullcontext()


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
