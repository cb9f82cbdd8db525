"""The training loop: from a parent's weights and a plan's rows to new weights, exactly once.

Everything that decides the weights is in the plan; everything that changes while training is in
the resume point: model, optimizer, random states, and the progress, which holds the position in
the plan's batches and how often each sequence has been seen. A killed run goes on from its last
resume point, and ends in the weights that an undisturbed run would have had, bit for bit on a CPU.
The machine's share (device, precision, layout of the batches) is in the plan too, so a resume point
is gone on from only where it was made alike.
Torch code: import inside the function that needs it.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from gpu_assets.errors import TrainingDiverged
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Hyperparams
from gpu_assets.training.batches import Batch, BatchLimits, Layout, epoch_batches, padding_share
from gpu_assets.training.loss import SupervisedLoss
from gpu_assets.training.model import load_model
from gpu_assets.training.optimizers import build_optimizer, set_hyperparams
from gpu_assets.training.progress import Progress
from gpu_assets.training.records import TrainingOutcome, TrainingPlan
from gpu_assets.training.resume import load_resume_point, save_resume_point
from gpu_assets.training.samples import Samples, load_samples
from gpu_assets.training.schedule import learning_rate
from gpu_assets.training.step import Run, optimizer_step

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 10.0
CURVE_POINTS = 200


def train(
    plan: TrainingPlan,
    work: Path,
    parent_optimizer: Path | None,
    report: Callable[[str], None] = logger.info,
) -> TrainingOutcome:
    """Carry out a plan in its work folder, from its newest usable resume point if it has one.

    Args:
        work: holds the resume points while training and the trained model afterwards.
        parent_optimizer: a folder with the parent's optimizer state, or None for a new one.
        report: called with a sentence of progress about every ten seconds.

    Raises:
        TrainingDiverged: if the loss is not finite; no model is left in `work`.
    """
    renderer = Renderer.load(plan.parent.folder, plan.renderer.profile, plan.renderer.system_prompt)
    samples = load_samples(plan.datasets, renderer, plan.hyperparams.max_length)
    run = _prepare(plan, samples, parent_optimizer, renderer.end_token_id)
    resumed_from = load_resume_point(work, lambda folder: run.accelerator.load_state(str(folder)), report)
    if resumed_from is not None:
        report(f"going on from the resume point at step {resumed_from} of {len(run.steps)}")
    _run_steps(run, plan, work, report)
    _check_every_row_seen(run.progress, plan.hyperparams.num_epochs)
    return _finish(run, plan, work, resumed_from)


def _prepare(plan: TrainingPlan, samples: Samples, parent_optimizer: Path | None, pad_id: int) -> Run:
    hyperparams = plan.hyperparams
    torch.manual_seed(hyperparams.seed)
    accelerator = Accelerator(mixed_precision="bf16" if plan.numerics.precision == "bf16" else "no")
    model = load_model(plan.parent.folder, hyperparams)
    loss = SupervisedLoss(model).train()
    optimizer = build_optimizer(loss.parameters(), hyperparams)
    loss, optimizer = accelerator.prepare(loss, optimizer)
    if parent_optimizer is not None:
        state = torch.load(parent_optimizer / "optimizer.bin", map_location=accelerator.device, weights_only=True)
        optimizer.load_state_dict(state)
        set_hyperparams(optimizer, hyperparams)
    progress = Progress(len(samples.sequences), fresh_optimizer=parent_optimizer is None)
    accelerator.register_for_checkpointing(progress)
    layout = plan.numerics.layout
    steps = plan_steps(samples.lengths, hyperparams, layout)
    return Run(accelerator, loss, optimizer, progress, samples, steps, layout, pad_id)


def plan_steps(lengths: Sequence[int], hyperparams: Hyperparams, layout: Layout) -> list[tuple[Batch, ...]]:
    """The micro-batches of every optimizer step of all epochs, in order."""
    limits = BatchLimits(rows=hyperparams.batch_size, tokens=hyperparams.max_batch_tokens)
    steps: list[tuple[Batch, ...]] = []
    for epoch in range(hyperparams.num_epochs):
        batches = epoch_batches(lengths, limits, layout, seed=hyperparams.seed + epoch)
        size = hyperparams.gradient_accumulation
        steps.extend(tuple(batches[start : start + size]) for start in range(0, len(batches), size))
    return steps


def _run_steps(run: Run, plan: TrainingPlan, work: Path, report: Callable[[str], None]) -> None:
    progress, total = run.progress, len(run.steps)
    begun, reported = time.monotonic() - progress.seconds, time.monotonic()
    bar = tqdm(total=total, initial=progress.step, desc="training", unit="step", disable=None)
    while progress.step < total:
        rate = learning_rate(progress.step, total, plan.hyperparams, fresh_optimizer=progress.fresh_optimizer)
        loss, gradient_norm = optimizer_step(run, run.steps[progress.step], rate, plan.hyperparams.max_grad_norm)
        _check_finite("loss", loss, plan, progress.step)
        _check_finite("norm of the gradient", gradient_norm, plan, progress.step)
        progress.losses.append(loss)
        progress.step += 1
        progress.seconds = time.monotonic() - begun
        bar.update()
        bar.set_postfix(loss=f"{loss:.4f}")
        if time.monotonic() - reported >= LOG_INTERVAL_S:
            reported = time.monotonic()
            report(f"step {progress.step} of {total}, loss {loss:.4f}")
        if progress.step % plan.hyperparams.save_steps == 0 and progress.step < total:
            save_resume_point(work, progress.step, lambda folder: run.accelerator.save_state(str(folder)))
    bar.close()


def _finish(run: Run, plan: TrainingPlan, work: Path, resumed_from: int | None) -> TrainingOutcome:
    model: PreTrainedModel = run.accelerator.unwrap_model(run.loss).model
    _check_weights(model, plan)
    model_folder, optimizer_folder = work / "model", work / "optimizer"
    for folder in (model_folder, optimizer_folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    model.save_pretrained(model_folder)
    torch.save(run.optimizer.state_dict(), optimizer_folder / "optimizer.bin")
    losses = run.progress.losses
    return TrainingOutcome(
        model_folder=model_folder,
        optimizer_folder=optimizer_folder,
        steps=len(run.steps),
        loss=_mean(losses[-max(1, len(losses) // 20) :]),
        loss_curve=tuple(_curve(losses, first_step=plan.parent.step)),
        tokens=run.samples.tokens,
        rows_seen=run.samples.num_rows,
        times_seen=(min(run.progress.seen), max(run.progress.seen)),
        padding_share=padding_share([batch for step in run.steps for batch in step], run.samples.lengths, run.layout),
        seconds=run.progress.seconds,
        resumed_from_step=resumed_from,
        device=str(run.accelerator.device),
    )


def _curve(losses: Sequence[float], first_step: int) -> Iterator[tuple[int, float]]:
    """At most `CURVE_POINTS` points, each the mean of its stretch, at the step of the line that ends it."""
    stretch = max(1, math.ceil(len(losses) / CURVE_POINTS))
    for start in range(0, len(losses), stretch):
        part = losses[start : start + stretch]
        yield first_step + start + len(part), round(_mean(part), 6)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _check_finite(what: str, value: float, plan: TrainingPlan, step: int) -> None:
    if not math.isfinite(value):
        keys = [dataset.key for dataset in plan.datasets]
        raise TrainingDiverged(
            f"the {what} is {value} at step {step + 1} of the run on {keys}: nothing is published. "
            "Lower hyperparams.learning_rate, or look at the rows of these datasets."
        )


def _check_weights(model: PreTrainedModel, plan: TrainingPlan) -> None:
    """The last step's update is checked by no later loss."""
    broken = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if broken:
        raise TrainingDiverged(
            f"after the last step of the run on {[dataset.key for dataset in plan.datasets]} the weights of "
            f"{broken[0]} are not finite: nothing is published. Lower hyperparams.learning_rate."
        )


def _check_every_row_seen(progress: Progress, epochs: int) -> None:
    wrong = sum(1 for count in progress.seen if count != epochs)
    if wrong:
        raise AssertionError(f"{wrong} of {progress.num_sequences} sequences were not seen exactly {epochs} times")
