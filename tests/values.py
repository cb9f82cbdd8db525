"""Checkpoints and scores with chosen values, for tests of what is decided from them."""

import json
from dataclasses import replace
from pathlib import Path

from gpu_assets.evaluation.records import Score, ScoringParameters
from gpu_assets.ranking.rank import Comparison
from gpu_assets.training.records import Checkpoint, checkpoint_name
from resources.artifacts import sha256_json, weights_sha256
from resources.workspace import Workspace

PARAMETERS = ScoringParameters(max_new_tokens=64, renderer_digest="digest")
COMPARISON = Comparison(evaluation_set_sha256="questions", max_new_tokens=64)


def weights_of(text: str) -> str:
    """A hash that stands for weights."""
    return sha256_json(text)


def make_score(
    step: int,
    correct: int,
    *,
    n: int = 100,
    weights: str | None = None,
    evaluation_set: str = COMPARISON.evaluation_set_sha256,
    max_new_tokens: int = PARAMETERS.max_new_tokens,
) -> Score:
    """A score of the checkpoint at a step; `weights` is a hash, by default one of the step's own."""
    found = weights or weights_of(str(step))
    return Score(
        checkpoint=checkpoint_name(step, found),
        step=step,
        weights_sha256=found,
        skill="binary",
        level=1,
        evaluation_set_sha256=evaluation_set,
        parameters=replace(PARAMETERS, max_new_tokens=max_new_tokens),
        n=n,
        correct=correct,
        accuracy=correct / n,
        low=0.0,
        high=1.0,
        parse_failure_rate=0.0,
        truncation_rate=0.0,
        loss=0.5,
        seconds=1.0,
        scored_at="2026-01-01T00:00:00+00:00",
        folder=Path("scores") / str(step),
    )


def make_checkpoint(
    workspace: Workspace,
    step: int,
    sequence: int,
    *,
    datasets: tuple[str, ...] = (),
    base: str = "base",
    has_manifest: bool = True,
) -> Checkpoint:
    """A complete checkpoint's folder whose weights are a few bytes that no model loads."""
    made = workspace.checkpoints / "made"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_text(f"weights at step {step}, published as {sequence}")
    weights = weights_sha256(made)
    folder = made.rename(workspace.checkpoints / checkpoint_name(step, weights))
    manifest = {
        "kind": "checkpoint",
        "format": 1,
        "name": folder.name,
        "step": step,
        "sequence": sequence,
        "weights_sha256": weights,
        "base_weights_sha256": base,
        "parent": {"kind": "base_model", "name": "base", "weights_sha256": base, "step": 0},
        "datasets": [{"key": key, "sha256": f"sha-of-{key}", "rows": 1} for key in datasets],
        "renderer": {"digest": "digest", "profile": {"name": "plain", "version": "1.0"}},
        "loss": 0.5,
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    checkpoint = Checkpoint.read(folder)
    if not has_manifest:
        (folder / "manifest.json").unlink()
    return checkpoint
