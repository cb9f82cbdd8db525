"""The asset of the training stage, at home on the trainer, whose GPU it uses."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.datasets.assets import DATASETS
from gpu_assets.datasets.parity import PARITY_CHECK, PromptSkew
from gpu_assets.datasets.validated import ValidatedDataset, read_validated
from gpu_assets.errors import MaskInvalid, PlatformError, SettingsError
from gpu_assets.training.config import TrainingConfig
from gpu_assets.training.records import BASE_WEIGHTS, Checkpoint, TrainingDataset
from gpu_assets.training.run import require_rows, run_training
from resources.deployed import read_deployed
from resources.events import check_results, failure, record_materialization
from resources.platform import Platform
from resources.plots import markdown_picture, training_curves
from resources.routing import Routing
from resources.workspace import Workspace

GROUP = "training"


def build(routing: Routing) -> list[dg.AssetsDefinition]:
    """The stage's assets, with the trainer's tags and pool."""

    @dg.multi_asset(
        name="checkpoints",
        group_name=GROUP,
        specs=[
            dg.AssetSpec(
                "checkpoints",
                description="The model after training on the dataset, continued from the head of its line. "
                "Datasets that were trained in one run name the same checkpoint.",
                deps=["base_model", "validated_datasets"],
                partitions_def=DATASETS,
                skippable=True,
                kinds={"pytorch", "safetensors"},
                tags=routing.tags("trainer"),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec("every_row_seen", asset="checkpoints", description="Each accepted row, `epochs` times."),
            dg.AssetCheckSpec(
                "masks",
                asset="checkpoints",
                blocking=True,
                description="Before training, what is supervised in the batches is the answers of their rows.",
            ),
            dg.AssetCheckSpec(
                PARITY_CHECK,
                asset="checkpoints",
                blocking=True,
                description="As the server loads it, it is prompted with the tokens that answers follow in training.",
            ),
        ],
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=routing.gpu_pool("trainer"),
    )
    def checkpoints(
        context: dg.AssetExecutionContext, config: TrainingConfig, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.AssetCheckResult]:
        keys = _requested(context.partition_keys, config)
        try:
            datasets = [_training_dataset(read_validated(platform.workspace, key)) for key in keys]
            require_rows(datasets)
            result = run_training(
                Platform(platform.settings.with_hyperparams(config.hyperparams)),
                ensure_base_model(platform.settings, platform.workspace),
                datasets,
                from_weights=_champion(platform.workspace) if config.parent == "champion" else None,
                retrain=config.retrain,
                asked=config.asked,
                report=context.log.info,
            )
        except PlatformError as error:
            if isinstance(error, MaskInvalid):
                yield from check_results("checkpoints", "masks", dict.fromkeys(keys, str(error)))
            if isinstance(error, PromptSkew):
                yield from check_results("checkpoints", PARITY_CHECK, dict.fromkeys(keys, str(error)))
            raise failure(context, error) from error
        for key, checkpoint in result.by_dataset.items():
            _record(context, key, checkpoint, trained_now=key in result.trained)
        faults = {key: _seen_fault(checkpoint) for key, checkpoint in result.by_dataset.items()}
        yield from check_results("checkpoints", "every_row_seen", faults)
        looked_at = [key for key, checkpoint in result.by_dataset.items() if checkpoint.manifest.get("masks")]
        for check in ("masks", PARITY_CHECK):
            yield from check_results("checkpoints", check, dict.fromkeys(looked_at))

    return [checkpoints]


def _requested(covered: list[str], config: TrainingConfig) -> list[str]:
    unknown = sorted(set(config.datasets) - set(covered))
    if unknown:
        raise dg.Failure(f"the run's config names {unknown}, but the run covers {covered}", allow_retries=False)
    return config.datasets or covered


def _training_dataset(validated: ValidatedDataset) -> TrainingDataset:
    return TrainingDataset(validated.key, validated.rows_path, validated.rows_sha256, validated.rows)


def _champion(workspace: Workspace) -> str:
    deployed = read_deployed(workspace)
    if deployed is None:
        raise SettingsError("parent is 'champion', but nothing is deployed yet; use parent: head")
    return str(deployed["weights_sha256"])


def _record(context: dg.AssetExecutionContext, key: str, checkpoint: Checkpoint, *, trained_now: bool) -> None:
    manifest = checkpoint.manifest
    record_materialization(
        context,
        "checkpoints",
        key,
        data_version=checkpoint.weights_sha256,
        metadata={
            "checkpoint": checkpoint.name,
            "path": dg.MetadataValue.path(checkpoint.folder),
            "step": checkpoint.step,
            "loss": checkpoint.loss,
            "weights_sha256": checkpoint.weights_sha256,
            "parent": manifest["parent"]["name"],
            "parent_weights_sha256": checkpoint.parent_sha256,
            BASE_WEIGHTS: checkpoint.base_weights_sha256,
            "datasets": dg.MetadataValue.json(manifest["datasets"]),
            "dagster/row_count": manifest["rows"],
            "epochs": manifest["epochs"],
            "tokens": manifest["tokens"]["total"],
            "supervised_tokens": manifest["tokens"]["supervised"],
            "padding_share": manifest["padding_share"],
            "duration_s": manifest["duration_s"],
            "device": manifest["device"],
            "config_sha256": manifest["config_sha256"],
            "manifest_sha256": checkpoint.manifest_sha256,
            "renderer_digest": manifest["renderer"]["digest"],
            "template_sha256": manifest["renderer"]["template_sha256"],
            "trained_in_this_run": trained_now,
            **_measured(manifest),
            "training_curves": dg.MetadataValue.md(markdown_picture(training_curves(_curves(manifest)), "training")),
        },
    )


def _measured(manifest: dict[str, Any]) -> dict[str, float | str]:
    """Figures for plots over checkpoints; one that was published before they were measured has none."""
    figures: dict[str, Any] = manifest.get("measured") or {}
    shown = {name: value for name, value in figures.items() if value is not None}
    splits = manifest.get("micro_batch_splits", 0)
    return shown | {"rollbacks": len(manifest.get("rollbacks", ())), "micro_batch_splits": splits}


def _curves(manifest: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    names = {"loss": "loss_curve", "gradient norm": "gradient_norm_curve", "learning rate": "learning_rate_curve"}
    return {label: manifest[name] for label, name in names.items() if name in manifest}


def _seen_fault(checkpoint: Checkpoint) -> str | None:
    """What is wrong with how often rows were seen, or None."""
    manifest = checkpoint.manifest
    least, most = manifest["times_seen"]
    if least == most == manifest["epochs"]:
        return None
    return f"{checkpoint.name} saw rows {least} to {most} times, wanted {manifest['epochs']}"
