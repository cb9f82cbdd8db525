"""Who looks at a training run, and with which measure. Torch code: import inside the function that needs it."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.training.device import matmul_peak, peak_memory_bytes
from gpu_assets.training.event_files import EventFiles
from gpu_assets.training.heartbeat import HEARTBEAT_FILE, Heartbeat
from gpu_assets.training.metrics import ForDisplay, Meter, Observer, StepWork
from gpu_assets.training.records import TrainingPlan
from gpu_assets.training.shapes import ModelShape
from gpu_assets.training.step import Run
from resources.workspace import Workspace


def observers_of(plan: TrainingPlan, workspace: Workspace, report: Callable[[str], None]) -> tuple[Observer, ...]:
    """The event files and the heartbeat that a plan's training writes in a home; what cannot be written is reported."""
    folder, heartbeat = event_folder(plan, workspace), workspace.training / HEARTBEAT_FILE
    datasets = [dataset.key for dataset in plan.datasets]
    return (
        ForDisplay(EventFiles(folder), f"{folder}, for TensorBoard,", report),
        ForDisplay(Heartbeat(heartbeat, plan.plan_id, plan.model_name, datasets), str(heartbeat), report),
    )


def event_folder(plan: TrainingPlan, workspace: Workspace) -> Path:
    """`tensorboard/<model>/from-step-<N>-<plan>`: a run of TensorBoard's a plan; all count the line's steps."""
    return workspace.tensorboard / plan.model_name / f"from-step-{plan.parent.step}-{plan.plan_id[:8]}"


def meter_of(plan: TrainingPlan, run: Run, observers: Sequence[Observer]) -> Meter:
    """The meter of a prepared run; only the first of several processes has observers."""
    accelerator, sequences = run.accelerator, run.samples.sequences
    work = StepWork(
        run.steps,
        run.samples.lengths,
        [sample.num_supervised for sample in sequences],
        run.layout,
        _shape(plan.parent.folder),
        adapters=plan.hyperparams.lora.rank > 0,
        pack_tokens=plan.hyperparams.max_batch_tokens,
    )
    peak = matmul_peak(str(accelerator.device), plan.numerics.precision, torch.get_num_threads())
    return Meter(
        work,
        peak * accelerator.num_processes,
        partial(peak_memory_bytes, accelerator.device),
        plan.parent.step,
        observers if accelerator.is_main_process else (),
    )


def _shape(folder: Path) -> ModelShape | None:
    """None for a family whose shape is not known: its run has no MFU."""
    try:
        return ModelShape.read(folder)
    except ArtifactInvalid:
        return None
