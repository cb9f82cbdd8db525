"""One training run: which datasets, from where, through the loop, to one published checkpoint."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpu_assets.base_model.records import BaseModel
from gpu_assets.errors import DatasetInvalid, TrainingDiverged
from gpu_assets.training.line import find_trained, line_of, list_checkpoints, parent_at
from gpu_assets.training.publish import optimizer_of, publish_checkpoint
from gpu_assets.training.records import Checkpoint, TrainingDataset, TrainingPlan
from gpu_assets.training.resume import resume_points
from gpu_assets.training.work import discard_void, line_held, resume_points_elsewhere, work_folder
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
    report: Callable[[str], None],
) -> TrainingResult:
    """Train on the datasets that no checkpoint of the line was trained on yet, into one checkpoint.

    Waits while another process trains in this home, and plans after that.

    Args:
        datasets: validated datasets, in the order in which their rows are laid out.
        from_weights: the checkpoint to go on from; None is the head of the line.
        retrain: also train on datasets that were trained on before.

    Raises:
        SettingsError: if this is one of several processes of a distributed start, or `from_weights` is no
            checkpoint of the line.
        TrainingDiverged: if the loss is not finite; nothing is published, and the resume points, which lead to
            the same loss, are removed.
    """
    from gpu_assets.training.numerics import numerics_here

    workspace, settings = platform.workspace, platform.settings
    numerics = numerics_here(settings.hyperparams)
    with line_held(workspace, report):
        line = line_of(base.weights_sha256, list_checkpoints(workspace))
        done = {} if retrain else {d.key: found for d in datasets if (found := find_trained(line, d.key)) is not None}
        todo = tuple(dataset for dataset in datasets if dataset.key not in done)
        for key, checkpoint in done.items():
            report(f"{key} is trained already, in {checkpoint.name}; run with retrain: true to train on it again")
        if not todo:
            return TrainingResult(done, trained=())
        plan = TrainingPlan(
            model_name=settings.model_name,
            parent=parent_at(base, line, from_weights),
            datasets=todo,
            hyperparams=settings.hyperparams,
            renderer=base.renderer,
            numerics=numerics,
        )
        checkpoint = _carry_out(plan, workspace, report)
    return TrainingResult(done | {d.key: checkpoint for d in todo}, trained=tuple(d.key for d in todo))


def _carry_out(plan: TrainingPlan, workspace: Workspace, report: Callable[[str], None]) -> Checkpoint:
    from gpu_assets.training.loop import train

    report(f"training on {plan.rows} rows of {len(plan.datasets)} datasets, from {plan.parent.name}")
    work = work_folder(plan, workspace)
    if not resume_points(work):
        for sentence in resume_points_elsewhere(plan, workspace):
            report(sentence)
    try:
        outcome = train(plan, work, optimizer_of(plan.parent.weights_sha256, workspace), report)
    except TrainingDiverged:
        shutil.rmtree(work)
        raise
    checkpoint = publish_checkpoint(plan, outcome, workspace)
    discard_void(workspace)
    return checkpoint


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
