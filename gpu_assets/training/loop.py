"""The training loop: from a parent's weights and a plan's rows to new weights, exactly once.

Everything that decides the weights is in the plan; everything that changes while training is in
the resume point: model, optimizer, random states, and the progress, which holds the position in
the plan's batches and how often each sequence has been seen. A killed run goes on from its last
resume point, and ends in the weights that an undisturbed run would have had, bit for bit on a CPU.
The machine's share (device, precision, layout of the batches) is in the plan too, so a resume point
is gone on from only where it was made alike. What is not finite, or a loss spike, takes training back to
its last scheduled resume point, once (guards.py).
Torch code: import inside the function that needs it.
"""

import gc
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from gpu_assets.errors import TrainingDiverged
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Hyperparams
from gpu_assets.training.attention import attention_for
from gpu_assets.training.batches import Batch, BatchLimits, Layout, epoch_batches, epoch_seed, padding_share
from gpu_assets.training.device import require_memory
from gpu_assets.training.guards import MAX_ROLLBACKS, Divergence, judge, rate_factor, roll_back
from gpu_assets.training.interrupts import Interrupts
from gpu_assets.training.loss import SupervisedLoss
from gpu_assets.training.masks import check_masks
from gpu_assets.training.metrics import Meter, Observer
from gpu_assets.training.model import load_model, save_model
from gpu_assets.training.observing import meter_of
from gpu_assets.training.optimizer_state import load_parent_state, save_state
from gpu_assets.training.optimizers import build_optimizer
from gpu_assets.training.progress import Progress
from gpu_assets.training.ranks import any_says, is_alone
from gpu_assets.training.records import TrainingOutcome, TrainingPlan
from gpu_assets.training.resume import note_rollbacks
from gpu_assets.training.samples import Samples, load_samples
from gpu_assets.training.saving import Keeper, ResumePointUnusable, weights_are_finite
from gpu_assets.training.schedule import learning_rate
from gpu_assets.training.self_check import check_model
from gpu_assets.training.sharding import is_sharded, shard, whole_state, whole_weights
from gpu_assets.training.splitting import step_that_fits
from gpu_assets.training.step import Run, optimizer_step, settle

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 10.0
CURVE_POINTS = 200


def train(
    plan: TrainingPlan,
    work: Path,
    parent_optimizer: Path | None,
    report: Callable[[str], None] = logger.info,
    min_free_bytes: int = 0,
    observers: Sequence[Observer] = (),
) -> TrainingOutcome:
    """Carry out a plan in its work folder, from its newest usable resume point if it has one.

    A signal to end lets the model be loaded, or the step that runs end, or the outcome be written, and saves a resume
    point, first. Every process of a plan for several carries it out, and the first of them writes.

    Args:
        work: holds the resume points while training and the trained model afterwards.
        parent_optimizer: a folder with the parent's optimizer state, which the plan names, or None for a new one.
        report: called with a sentence of progress about every ten seconds.
        min_free_bytes: what must stay free on the disk beside all that is written.
        observers: are given the figures of about every second.

    Raises:
        TrainingDiverged: if the loss is a spike or not finite again after training was rolled back; no model is left
            in `work`.
        MaskInvalid: before the first step, if what would be trained on is not the answers of the rows.
        ModelUnsupported: before the first step, if the model computes what training would leave out.
        OutOfMemory: if not even one row fits, or is foreseen to.
        DiskFull: before anything is written that the disk does not hold.
        BatchesTooLarge: if this is one of several processes, all of which must begin anew.
        TrainingStopped: on a signal that whoever handles it lets pass.
    """
    renderer = Renderer.load(plan.parent.folder, plan.renderer.profile, plan.renderer.system_prompt)
    samples = load_samples(plan.datasets, renderer, plan.hyperparams.max_length, plan.replay)
    keeper = Keeper(work, plan.hyperparams.save_steps, min_free_bytes, report)
    prepare = partial(_prepare, plan, samples, parent_optimizer, renderer.end_token_id)
    require_memory(plan, report)
    with Interrupts(alone=plan.numerics.processes == 1):  # Models and optimizers import as they are made.
        made = _Made(prepare)
        check_model(made.run, plan)
    steps, layout = made.run.steps, made.run.layout
    masks = check_masks(first_epoch(steps, len(samples.sequences)), samples, renderer, layout)
    resumed_from = made.load(keeper)
    if resumed_from is not None:
        report(f"going on from the resume point at step {resumed_from} of {len(steps)}")
    keeper.require_room(made.run)
    with Interrupts(alone=is_alone(made.run.accelerator)) as interrupts:
        with meter_of(plan, made.run, observers) as meter:
            while (divergence := _run_steps(made.run, plan, keeper, meter, interrupts)) is not None:
                _require_try_left(divergence, made.run.progress, plan)
                before = made.run.progress.state_dict()
                if made.load(keeper, scheduled_only=True) is None:
                    made.again()
                _go_on_lower(divergence, before, made.run, keeper)
        run = made.run
        _check_every_row_seen(run.progress, plan.hyperparams.num_epochs)
        keeper.require_room_for_outcome(run)
        outcome = _finish(run, plan, work, resumed_from, meter)
        if any_says(run.accelerator, interrupts.requested):
            _end_as_asked(run, keeper, interrupts)
    return replace(outcome, masks=masks.to_json())


class _Made:
    """The run that was made, and how it is made again; the device may hold one, so only this refers to it."""

    def __init__(self, prepare: Callable[[], Run]) -> None:
        self._prepare = prepare
        self.run = prepare()

    def again(self) -> None:
        """Let the run go, then make another."""
        del self.run
        gc.collect()
        self.run = self._prepare()

    def load(self, keeper: Keeper, *, scheduled_only: bool = False) -> int | None:
        """As `Keeper.load`, past the resume points that turn out to be of no use while they are loaded."""
        while True:
            with suppress(ResumePointUnusable):
                return keeper.load(self.run, scheduled_only=scheduled_only)
            self.again()


def _prepare(plan: TrainingPlan, samples: Samples, parent_optimizer: Path | None, pad_id: int) -> Run:
    hyperparams, numerics = plan.hyperparams, plan.numerics
    torch.manual_seed(hyperparams.seed)
    autocast = numerics.precision == "bf16" and numerics.shards == 1
    accelerator = Accelerator(mixed_precision="bf16" if autocast else "no")
    model = load_model(plan.parent.folder, hyperparams, attention_for(numerics))
    loss = SupervisedLoss(model).train()
    if numerics.shards > 1:
        shard(loss, numerics)
        optimizer = build_optimizer(loss, hyperparams)
    else:
        loss, optimizer = accelerator.prepare(loss, build_optimizer(loss, hyperparams))
    optimizer_steps = 0 if parent_optimizer is None else load_parent_state(parent_optimizer, optimizer)
    progress = Progress(len(samples.sequences), optimizer_steps)
    accelerator.register_for_checkpointing(progress)
    layout = plan.numerics.layout
    steps = plan_steps(samples.lengths, hyperparams, layout)
    run = Run(accelerator, loss, optimizer, progress, samples, steps, layout, pad_id)
    settle(run)
    return run


def plan_steps(lengths: Sequence[int], hyperparams: Hyperparams, layout: Layout) -> list[tuple[Batch, ...]]:
    """The micro-batches of every optimizer step of all epochs, in order."""
    limits = BatchLimits(rows=hyperparams.batch_size, tokens=hyperparams.max_batch_tokens)
    steps: list[tuple[Batch, ...]] = []
    for epoch in range(hyperparams.num_epochs):
        batches = epoch_batches(lengths, limits, layout, epoch_seed(hyperparams.seed, epoch))
        size = hyperparams.gradient_accumulation
        steps.extend(tuple(batches[start : start + size]) for start in range(0, len(batches), size))
    return steps


def first_epoch(steps: Sequence[Sequence[Batch]], num_sequences: int) -> Iterator[Batch]:
    """The micro-batches of the first pass over all sequences."""
    seen = 0
    for batch in chain.from_iterable(steps):
        if seen == num_sequences:
            return
        seen += len(batch)
        yield batch


def _run_steps(run: Run, plan: TrainingPlan, keeper: Keeper, meter: Meter, interrupts: Interrupts) -> Divergence | None:
    """Train to the end of the plan, or to what went wrong, which is undone by whoever called."""
    progress, hyperparams, total = run.progress, plan.hyperparams, len(run.steps)
    begun, reported = time.monotonic() - progress.seconds, time.monotonic()
    accelerator = run.accelerator
    silent = None if accelerator.is_main_process else True  # None: where there is no terminal
    bar = tqdm(total=total, initial=progress.step, desc="training", unit="step", disable=silent)
    with bar:
        while progress.step < total:
            rate = learning_rate(progress.step, total, hyperparams, optimizer_steps=progress.optimizer_steps)
            rate *= rate_factor(progress.rollbacks)
            take = partial(optimizer_step, run, rate=rate, max_grad_norm=hyperparams.max_grad_norm)
            loss, gradient_norm = step_that_fits(run, take, keeper.report)
            divergence = judge(progress.step + 1, loss, gradient_norm, progress.losses, hyperparams.max_loss_rise)
            if divergence is not None:
                return divergence
            progress.note(loss, gradient_norm, rate)
            progress.seconds = time.monotonic() - begun
            meter.on_step(progress.step, loss, gradient_norm, rate)
            bar.update()
            bar.set_postfix(loss=f"{loss:.4f}")
            if time.monotonic() - reported >= LOG_INTERVAL_S:
                reported = time.monotonic()
                keeper.report(f"step {progress.step} of {total}, loss {loss:.4f}")
            asked = any_says(accelerator, interrupts.requested)
            scheduled = keeper.is_due(progress.step, total)
            judged = scheduled or progress.step == total  # whether asked or not: where a signal falls decides nothing
            finite = not (asked or judged) or weights_are_finite(run)
            if judged and not finite:
                return Divergence(progress.step, "weights", math.nan)
            if asked:
                _end_as_asked(run, keeper, interrupts, finite=finite)
            if scheduled:
                keeper.save(run)
    return None


def _end_as_asked(run: Run, keeper: Keeper, interrupts: Interrupts, *, finite: bool = True) -> None:
    """Leave a resume point at the run's step, unless its weights are not finite, and hand the signal on."""
    if finite:
        keeper.save(run)
    kept = "with a resume point there" if finite else "whose weights are not finite and were not saved"
    keeper.report(f"asked to end: stopped after step {run.progress.step} of {len(run.steps)}, {kept}")
    interrupts.deliver()


def _require_try_left(divergence: Divergence, progress: Progress, plan: TrainingPlan) -> None:
    """End a run that was rolled back before."""
    if len(progress.rollbacks) >= MAX_ROLLBACKS:
        last = progress.rollbacks[-1]
        raise TrainingDiverged(
            f"{divergence} of the run on {[dataset.key for dataset in plan.datasets]}, after it was rolled back from "
            f"step {last['step']} to {last['to_step']} and went on with {last['rate_factor']:g} of the learning rate: "
            "nothing is published. Lower hyperparams.learning_rate, or look at the rows of these datasets; where they "
            "are meant to be that hard, raise hyperparams.max_loss_rise."
        )


def _go_on_lower(divergence: Divergence, before: dict[str, Any], run: Run, keeper: Keeper) -> None:
    """Lower the rate of a run that was brought back to where it was well, and keep that on the disk.

    Args:
        before: the progress in which it went wrong; what was learnt of the memory, and the time spent, stay.
    """
    progress = run.progress
    rollback = roll_back(divergence, progress.step, before["rollbacks"])
    progress.rollbacks = [*before["rollbacks"], rollback.to_json()]
    progress.micro_batch_splits, progress.seconds = before["micro_batch_splits"], before["seconds"]
    if run.accelerator.is_main_process:
        note_rollbacks(keeper.work, progress.rollbacks)
    keeper.report(
        f"{divergence}: rolled back to step {progress.step}, going on with {rollback.rate_factor:g} of the rate"
    )


def _finish(run: Run, plan: TrainingPlan, work: Path, resumed_from: int | None, meter: Meter) -> TrainingOutcome:
    model_folder, optimizer_folder = _write_outcome(run, plan, work)
    losses, progress = run.progress.losses, run.progress
    curve = partial(_curve, first_step=plan.parent.step)
    return TrainingOutcome(
        model_folder=model_folder,
        optimizer_folder=optimizer_folder,
        steps=len(run.steps),
        loss=_mean(losses[-max(1, len(losses) // 20) :]),
        loss_curve=tuple(curve(losses)),
        gradient_norm_curve=tuple(curve(progress.gradient_norms)),
        learning_rate_curve=tuple(curve(progress.rates)),
        tokens=run.samples.tokens,
        rows_seen=run.samples.num_rows,
        times_seen=(min(run.progress.seen), max(run.progress.seen)),
        padding_share=padding_share(
            list(chain.from_iterable(run.steps)), run.samples.lengths, run.layout, plan.hyperparams.max_batch_tokens
        ),
        seconds=run.progress.seconds,
        resumed_from_step=resumed_from,
        device=str(run.accelerator.device),
        measured=meter.summary(progress.gradient_norms, progress.rates, progress.seconds),
        rollbacks=tuple(run.progress.rollbacks),
        micro_batch_splits=run.progress.micro_batch_splits,
    )


def _write_outcome(run: Run, plan: TrainingPlan, work: Path) -> tuple[Path, Path | None]:
    """The folders of the trained model and of the optimizer's state, which the first process writes.

    None in the place of the state of adapters, which the next run makes anew.
    """
    main, progress = run.accelerator.is_main_process, run.progress
    folders = (work / "model", work / "optimizer")
    state = None if plan.hyperparams.lora.rank else whole_state(run.optimizer, keep=main)
    model = _whole_model(run, plan)
    if main:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        folders[0].mkdir()
        save_model(model, folders[0])
        if state is not None:
            folders[1].mkdir()
            save_state(folders[1], state, plan.hyperparams, progress.optimizer_steps + progress.step)
    run.accelerator.wait_for_everyone()
    return folders[0], None if state is None else folders[1]


def _whole_model(run: Run, plan: TrainingPlan) -> PreTrainedModel:
    """The trained model; where it is cut up, the first process puts its weights together in the host's memory."""
    trained: PreTrainedModel = run.accelerator.unwrap_model(run.loss).model
    if not is_sharded(run.loss):
        return trained
    weights = whole_weights(trained, keep=run.accelerator.is_main_process)
    if not run.accelerator.is_main_process:
        return trained
    model = load_model(plan.parent.folder, plan.hyperparams.model_copy(update={"compile": False}))
    model.load_state_dict(weights)
    return model


def _curve(losses: Sequence[float], first_step: int) -> Iterator[tuple[int, float]]:
    """At most `CURVE_POINTS` points, each the mean of its stretch, at the step of the line that ends it."""
    stretch = max(1, math.ceil(len(losses) / CURVE_POINTS))
    for start in range(0, len(losses), stretch):
        part = losses[start : start + stretch]
        yield first_step + start + len(part), float(f"{_mean(part):.6g}")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _check_every_row_seen(progress: Progress, epochs: int) -> None:
    wrong = sum(1 for count in progress.seen if count != epochs)
    if wrong:
        raise AssertionError(f"{wrong} of {progress.num_sequences} sequences were not seen exactly {epochs} times")
