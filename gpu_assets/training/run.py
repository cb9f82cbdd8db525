"""One training run: which datasets, from where, through the loop, to one published checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpu_assets.base_model.records import BaseModel
from gpu_assets.errors import DatasetInvalid
from gpu_assets.training.line import find_trained, line_of, list_checkpoints, parent_at
from gpu_assets.training.publish import discard_work, optimizer_of, publish_checkpoint, work_folder
from gpu_assets.training.records import Checkpoint, TrainingDataset, TrainingPlan
from resources.platform import Platform


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

    Args:
        datasets: validated datasets, in the order in which their rows are laid out.
        from_weights: the checkpoint to go on from; None is the head of the line.
        retrain: also train on datasets that were trained on before.

    Raises:
        TrainingDiverged: if the loss is not finite; nothing is published.
    """
    workspace = platform.workspace
    published = list_checkpoints(workspace)
    line = line_of(base, published)
    done = {} if retrain else {d.key: found for d in datasets if (found := find_trained(line, d.key)) is not None}
    todo = tuple(dataset for dataset in datasets if dataset.key not in done)
    for key, checkpoint in done.items():
        report(f"{key} is trained already, in {checkpoint.name}; run with retrain: true to train on it again")
    if not todo:
        return TrainingResult(done, trained=())
    plan = TrainingPlan(
        model_name=platform.settings.model_name,
        parent=parent_at(base, line, from_weights),
        datasets=todo,
        hyperparams=platform.settings.hyperparams,
        renderer=base.renderer,
    )
    report(f"training on {plan.rows} rows of {len(todo)} datasets, from {plan.parent.name}")
    checkpoint = _carry_out(plan, platform, published, report)
    return TrainingResult(done | {d.key: checkpoint for d in todo}, trained=tuple(d.key for d in todo))


def _carry_out(
    plan: TrainingPlan, platform: Platform, published: Sequence[Checkpoint], report: Callable[[str], None]
) -> Checkpoint:
    from gpu_assets.training.loop import train

    workspace = platform.workspace
    outcome = train(plan, work_folder(plan, workspace), optimizer_of(plan.parent.weights_sha256, workspace), report)
    checkpoint = publish_checkpoint(plan, outcome, workspace, published)
    discard_work(workspace)
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
