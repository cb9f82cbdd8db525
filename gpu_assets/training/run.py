"""One training run: which datasets, from where, through the loop, to one published checkpoint."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_assets.base_model.records import BaseModel, RendererRecord
from gpu_assets.errors import ArtifactInvalid, DatasetInvalid, TrainingDiverged
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Profile
from gpu_assets.training.disk import GB
from gpu_assets.training.interrupts import Interrupts
from gpu_assets.training.job import Job
from gpu_assets.training.launch import train_in_processes
from gpu_assets.training.line import find_trained, line_of, list_checkpoints, parent_at
from gpu_assets.training.publish import optimizer_of, publish_checkpoint
from gpu_assets.training.records import Checkpoint, Parent, TrainingDataset, TrainingOutcome, TrainingPlan
from gpu_assets.training.replay import plan_replay
from gpu_assets.training.resume import resume_points
from gpu_assets.training.work import (
    discard_torn,
    discard_void,
    line_held,
    resume_points_elsewhere,
    work_folder,
)
from resources.platform import Platform
from resources.workspace import Workspace


@dataclass(frozen=True)
class TrainingResult:
    """The checkpoint of every requested dataset; `trained` are those that this run trained."""

    by_dataset: dict[str, Checkpoint]
    trained: tuple[str, ...]


def run_training(
    platform: Platform,
    base: BaseModel,
    datasets: Sequence[TrainingDataset],
    *,
    from_weights: str | None = None,
    retrain: bool = False,
    asked: Mapping[str, Any] | None = None,
    report: Callable[[str], None],
) -> TrainingResult:
    """Train on the datasets that no checkpoint of the line was trained on yet, into one checkpoint.

    Waits while another process trains in this home, and plans after that.

    Args:
        datasets: validated datasets, in the order in which their rows are laid out.
        from_weights: the checkpoint to go on from; None is the head of the line.
        retrain: also train on datasets that were trained on before.
        asked: what of the run's config is not the default; kept with the plan, for whoever lets it go on.

    Raises:
        SettingsError: if this is one of several processes of a distributed start, or `from_weights` is no
            checkpoint of the line.
        TrainingDiverged: if it went wrong again after it was rolled back; nothing is published, and the resume
            points, which lead to the same loss, are removed.
        OutOfMemory, DiskFull, TrainingStopped: as `loop.train`; the resume points stay.
    """
    load_libraries()
    from gpu_assets.training.numerics import numerics_here
    from gpu_assets.training.optimizer_state import find_state

    workspace, settings = platform.workspace, platform.settings
    numerics = numerics_here(settings.hyperparams, settings.distributed)
    with line_held(workspace, report) as lock:
        discard_torn(workspace)
        discard_void(workspace, report)
        line = line_of(base.weights_sha256, list_checkpoints(workspace))
        done = {} if retrain else {d.key: found for d in datasets if (found := find_trained(line, d.key)) is not None}
        todo = tuple(dataset for dataset in datasets if dataset.key not in done)
        for key, checkpoint in done.items():
            report(f"{key} is trained already, in {checkpoint.name}; run with retrain: true to train on it again")
        if not todo:
            return TrainingResult(done, trained=())
        hyperparams, parent = settings.hyperparams, parent_at(base, line, from_weights)
        renderer = _renderer_of(parent, settings.profile)
        optimizer_state = None
        try:
            optimizer_state = find_state(parent, hyperparams, workspace)
        except ArtifactInvalid as error:
            report(f"{error}: the optimizer begins anew")
        plan = TrainingPlan(
            model_name=settings.model_name,
            parent=parent,
            datasets=todo,
            hyperparams=hyperparams,
            renderer=RendererRecord.of(renderer),
            numerics=numerics,
            replay=plan_replay(workspace, line, parent, todo, hyperparams, renderer, report),
            optimizer_state=optimizer_state,
        )
        work = work_folder(plan, workspace, asked)
        checkpoint = _carry_out(plan, work, workspace, int(settings.storage.min_free_gb * GB), lock, report)
    return TrainingResult(done | {d.key: checkpoint for d in todo}, trained=tuple(d.key for d in todo))


def load_libraries() -> None:
    """Import what trains, with a signal to end kept until that is done.

    Raised inside an import, what ends the run may be swallowed, or turned into another error: the libraries try
    imports, and go on without what they could not have.
    """
    with Interrupts():
        import gpu_assets.training.loop  # noqa: F401


def _renderer_of(parent: Parent, profile: Profile) -> Renderer:
    """What renders rows now: the parent's template, which the profile may replace, stays with its line."""
    return Renderer.load(parent.folder, profile.name, profile.system_prompt)


def _carry_out(
    plan: TrainingPlan, work: Path, workspace: Workspace, min_free_bytes: int, lock: int, report: Callable[[str], None]
) -> Checkpoint:
    replayed = sum(rows.rows for rows in plan.replay)
    report(
        f"training on {plan.rows} rows of {len(plan.datasets)} datasets and {replayed} replayed rows of "
        f"{len(plan.replay)} earlier ones, from {plan.parent.name}"
    )
    if not resume_points(work):
        for sentence in resume_points_elsewhere(plan, workspace):
            report(sentence)
    optimizer = optimizer_of(plan.parent.weights_sha256, workspace) if plan.optimizer_state else None
    try:
        outcome = _train(Job(plan, work, optimizer, min_free_bytes, workspace.home), lock, report)
    except TrainingDiverged:
        shutil.rmtree(work)
        raise
    with Interrupts():  # The outcome would be written again, from the last scheduled resume point on.
        checkpoint = publish_checkpoint(plan, outcome, workspace)
    discard_void(workspace, report)
    return checkpoint


def _train(job: Job, lock: int, report: Callable[[str], None]) -> TrainingOutcome:
    """In this process, or in those that it starts."""
    import torch

    from gpu_assets.training.loop import train
    from gpu_assets.training.observing import observers_of

    if job.plan.numerics.processes > 1:
        return train_in_processes(job, lock, torch.get_num_threads(), report)
    observers = observers_of(job.plan, Workspace(job.home), report)
    return train(job.plan, job.work, job.parent_optimizer, report, job.min_free_bytes, observers)


def require_rows(datasets: Sequence[TrainingDataset]) -> None:
    """Refuse a run that has nothing to train on.

    Raises:
        DatasetInvalid: if there is no dataset, or none has a row.
    """
    if not sum(dataset.rows for dataset in datasets):
        raise DatasetInvalid(
            f"there is nothing to train on in {[dataset.key for dataset in datasets]}; materialize validated_datasets "
            "for these partitions first"
        )
