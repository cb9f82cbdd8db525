"""From a trained model in a work folder to a published checkpoint, and what is kept beside it."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import polars as pl

from gpu_assets.base_model.fingerprint import compute_fingerprint
from gpu_assets.datasets.parity import PromptSkew, parity_fault
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.rendering import Renderer
from gpu_assets.rendering.template import TEMPLATE_FILE
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.records import (
    CHECKPOINT_KIND,
    Checkpoint,
    TrainingOutcome,
    TrainingPlan,
    checkpoint_name,
    token_count_json,
)
from gpu_assets.training.work import OPTIMIZERS
from resources.artifacts import MANIFEST_FILE, file_hashes, is_complete, publishing, weights_sha256, write_json
from resources.clock import utc_now
from resources.workspace import Workspace

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
REPLAY_FILE = "replay.parquet"
OPTIMIZER_KIND = "optimizer_state"
OPTIMIZER_STATES_KEPT = 2


def publish_checkpoint(plan: TrainingPlan, outcome: TrainingOutcome, workspace: Workspace) -> Checkpoint:
    """Publish the outcome as the next checkpoint; the tokenizer comes along from the parent, and the template is
    the one that was trained with.

    The manifest is written last and the folder appears by rename. The optimizer's state is kept
    beside the checkpoints for the next run, not in the checkpoint, which is what is deployed.

    Raises:
        ArtifactInvalid: if another checkpoint already has the name.
        PromptSkew: if a server would prompt the checkpoint otherwise than it was trained.
    """
    weights = weights_sha256(outcome.model_folder)
    step = plan.parent.step + outcome.steps
    final = workspace.checkpoints / checkpoint_name(step, weights)
    if final.exists() and not is_complete(final):
        raise ArtifactInvalid(f"{final} exists without a manifest; move it away, then materialize again")
    if not is_complete(final):
        if outcome.optimizer_folder is not None:
            _keep_optimizer(outcome.optimizer_folder, weights, workspace)
        with publishing(final) as temporary:
            for file in outcome.model_folder.iterdir():
                shutil.copy2(file, temporary / file.name)
            for name in TOKENIZER_FILES:
                if (plan.parent.folder / name).is_file():
                    shutil.copy2(plan.parent.folder / name, temporary / name)
            renderer = _write_template(plan, temporary)
            if plan.replay:
                _write_replayed(plan, temporary / REPLAY_FILE)
            sequence = 1 + max((checkpoint.sequence for checkpoint in list_checkpoints(workspace)), default=0)
            manifest = _manifest(plan, outcome, final.name, step, weights, sequence)
            fingerprint = compute_fingerprint(temporary, renderer).to_json()
            write_json(temporary / MANIFEST_FILE, {**manifest, "fingerprint": fingerprint})
    _drop_older_states(workspace)
    return Checkpoint.read(final)


def optimizer_of(weights: str, workspace: Workspace) -> Path | None:
    """The kept optimizer state of a checkpoint, or None if there is none any more."""
    folder = _optimizer_states(workspace) / weights
    return folder if is_complete(folder) else None


def _optimizer_states(workspace: Workspace) -> Path:
    return workspace.training / OPTIMIZERS


def _keep_optimizer(source: Path, weights: str, workspace: Workspace) -> None:
    states = _optimizer_states(workspace)
    states.mkdir(parents=True, exist_ok=True)
    if not is_complete(states / weights):
        with publishing(states / weights) as temporary:
            for file in source.iterdir():
                file.rename(temporary / file.name)
            files = file_hashes(temporary)
            manifest = {"kind": OPTIMIZER_KIND, "format": 1, "weights_sha256": weights, "files": files}
            write_json(temporary / MANIFEST_FILE, manifest)


def _drop_older_states(workspace: Workspace) -> None:
    """Only once the checkpoint is published: until then a plan may name any of them, and is carried out again."""
    states = _optimizer_states(workspace)
    if not states.is_dir():
        return
    kept = sorted(filter(is_complete, states.iterdir()), key=lambda path: path.stat().st_mtime_ns)
    for folder in kept[:-OPTIMIZER_STATES_KEPT]:
        shutil.rmtree(folder)


def _write_template(plan: TrainingPlan, folder: Path) -> Renderer:
    """Write the template in force, which may not be the parent's own; the folder then prompts as was trained.

    Returns what renders for the folder.

    Raises:
        PromptSkew: if it does not.
    """
    profile, system_prompt = plan.renderer.profile, plan.renderer.system_prompt
    template = Renderer.load(plan.parent.folder, profile, system_prompt).template
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8", newline="")
    served = Renderer.load(folder, profile, system_prompt)
    if served.digest != plan.renderer.digest:
        raise PromptSkew(
            f"the trained model renders as {served.digest[:8]}, it was trained as {plan.renderer.digest[:8]}: the "
            f"tokenizer or template of {plan.parent.folder} changed while it was trained; materialize checkpoints again"
        )
    for dataset in plan.datasets:
        if (fault := parity_fault(dataset.rows_path, served)) is not None:
            raise PromptSkew(f"the trained model, dataset {dataset.key}, {fault}; nothing is published")
    return served


def _write_replayed(plan: TrainingPlan, path: Path) -> None:
    """Which rows of earlier datasets were trained on again: their key and hash."""
    columns = {
        "key": [rows.key for rows in plan.replay for _ in rows.row_hashes],
        "row_sha256": [row for rows in plan.replay for row in rows.row_hashes],
    }
    pl.DataFrame(columns).write_parquet(path)


def _manifest(
    plan: TrainingPlan, outcome: TrainingOutcome, name: str, step: int, weights: str, sequence: int
) -> dict[str, object]:
    return {
        "kind": CHECKPOINT_KIND,
        "format": 1,
        "name": name,
        "model_name": plan.model_name,
        "step": step,
        "sequence": sequence,
        "weights_sha256": weights,
        "plan_id": plan.plan_id,
        "parent": plan.parent.to_json(),
        "base_weights_sha256": plan.parent.base_weights_sha256,
        "datasets": [dataset.to_json() for dataset in plan.datasets],
        "replay": [rows.to_json() for rows in plan.replay],
        "architecture": json.loads((outcome.model_folder / "config.json").read_text())["architectures"][0],
        "renderer": plan.renderer.to_json(),
        "hyperparams": plan.hyperparams.model_dump(),
        "config_sha256": plan.config_sha256,
        "optimizer_state": {"parent": plan.optimizer_state},
        "fresh_optimizer": plan.optimizer_state is None,
        "rows": outcome.rows_seen,
        "times_seen": list(outcome.times_seen),
        "epochs": plan.hyperparams.num_epochs,
        "tokens": token_count_json(outcome.tokens),
        "padding_share": round(outcome.padding_share, 4),
        "masks": outcome.masks,
        "loss": round(outcome.loss, 6),
        "loss_curve": [list(point) for point in outcome.loss_curve],
        "gradient_norm_curve": [list(point) for point in outcome.gradient_norm_curve],
        "learning_rate_curve": [list(point) for point in outcome.learning_rate_curve],
        "measured": asdict(outcome.measured),
        "device": outcome.device,
        "resumed_from_step": outcome.resumed_from_step,
        "rollbacks": list(outcome.rollbacks),
        "micro_batch_splits": outcome.micro_batch_splits,
        "duration_s": round(outcome.seconds, 2),
        "created_at": utc_now(),
    }
