"""A home with real datasets, two real checkpoints in a line, and a deployment."""

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.datasets.intake import take_in
from gpu_assets.datasets.records import find_dataset
from gpu_assets.datasets.validate import GateRefused, Gates
from gpu_assets.datasets.validated import ValidatedDataset, read_validated
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Settings, load_settings
from gpu_assets.training.records import Checkpoint, TrainingDataset
from gpu_assets.training.run import run_training
from resources.deployed import write_deployed
from resources.platform import Platform
from resources.workspace import Workspace
from serving.skills import binary

ROWS = 24
BAD_LINE = 13
"""Of file `a`: the one that is rejected."""


@dataclass(frozen=True)
class World:
    """`first` was trained on `a`, `second` went on from it with `b` and is deployed; `c` begins with `a`'s first row.

    `refused` was refused as a whole: its first line is good.
    """

    workspace: Workspace
    files: Path
    a: str
    b: str
    c: str
    refused: str
    first: Checkpoint
    second: Checkpoint


def build_world(home: Path, tiny_folder: Path) -> World:
    settings = _settings(home)
    workspace = Workspace(home).create()
    shutil.copytree(tiny_folder, workspace.models / "tiny-seed42")
    files = home / "files"
    files.mkdir()
    keys = _validate(settings, workspace, files)
    first = _train(settings, workspace, keys["a"])
    second = _train(settings, workspace, keys["b"])
    write_deployed(workspace, {"weights_sha256": second.weights_sha256, "checkpoint": second.name})
    return World(workspace, files, keys["a"], keys["b"], keys["c"], keys["refused"], first, second)


def refuse(workspace: Workspace, key: str, sidecar: str | None = None, **thresholds: object) -> None:
    """Validate a dataset again, with another sidecar or under other settings, so that a gate refuses it."""
    if sidecar is not None:
        (workspace.datasets / key / "sidecar.json").write_text(sidecar)
    with pytest.raises(GateRefused):
        validate_again(workspace, key, **thresholds)


def validate_again(workspace: Workspace, key: str, **thresholds: object) -> ValidatedDataset:
    """Under other settings."""
    settings = _settings(workspace.home)
    settings = settings.model_copy(update={"validation": settings.validation.model_copy(update=thresholds)})
    return _gates(settings, workspace).validate(find_dataset(workspace, key))


def accept_fewer(workspace: Workspace, key: str) -> int:
    """Validate a dataset again, so that it passes without its longest line; that line's number."""
    lines = find_dataset(workspace, key).data_path.read_bytes().splitlines()
    longest = max(range(len(lines)), key=lambda place: len(lines[place]))
    validate_again(workspace, key, max_row_bytes=len(lines[longest]) - 1, max_rejected_share=0.9)
    return longest + 1


def train_on_c_too(workspace: Workspace, world: World) -> None:
    """As if the first checkpoint had been trained on `c` beside `a`."""
    path = workspace.checkpoints / world.first.name / "manifest.json"
    manifest, c = json.loads(path.read_text()), read_validated(workspace, world.c)
    manifest["datasets"].append({"key": c.key, "sha256": c.rows_sha256, "rows": c.rows})
    path.write_text(json.dumps(manifest))


def validate(workspace: Workspace, name: str, sidecar: str) -> str:
    """Take in a file of the inbox with a sidecar, and pass it through the gates; its key."""
    (workspace.inbox / f"{name}.meta.json").write_text(sidecar)
    (key,) = take_in(workspace, validated=(), open_keys=(), pause=lambda _: None, now=lambda: 4e9).taken_in
    return _gates(_settings(workspace.home), workspace).validate(find_dataset(workspace, key)).key


def _settings(home: Path) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPU_ASSETS_HOME", str(home))
        return load_settings()


def _gates(settings: Settings, workspace: Workspace) -> Gates:
    return Gates.build(settings, workspace, Renderer.load(ensure_base_model(settings, workspace).folder, "plain"))


def _validate(settings: Settings, workspace: Workspace, files: Path) -> dict[str, str]:
    rows = {name: [json.dumps(row) for row in _rows(seed)] for seed, name in enumerate("abc")}
    rows["a"].insert(BAD_LINE - 1, '{"messages": []}')
    rows["c"].insert(0, rows["a"][0])
    rows["refused"] = [json.dumps(_rows(9)[0]), *["{"] * 9]
    for name, lines in rows.items():
        (files / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        shutil.copy(files / f"{name}.jsonl", workspace.inbox)
    sidecar = {"generator_id": "curriculum", "generator_version": "1.0.0"}
    (workspace.inbox / "b.jsonl.meta.json").write_text(json.dumps(sidecar))
    taken = take_in(workspace, validated=(), open_keys=(), pause=lambda _: None, now=lambda: 4e9).taken_in
    keys = {key.rsplit("-", 1)[0]: key for key in taken}
    gates = _gates(settings, workspace)
    for name in ("a", "b", "c"):
        gates.validate(find_dataset(workspace, keys[name]))
    with pytest.raises(GateRefused):
        gates.validate(find_dataset(workspace, keys["refused"]))
    return keys


def _rows(seed: int) -> list[dict[str, Any]]:
    return list(binary.training_rows(2, ROWS, random.Random(seed)))


def _train(settings: Settings, workspace: Workspace, key: str) -> Checkpoint:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    hyperparams = settings.hyperparams.model_copy(update={"batch_size": 12, "warmup_steps": 1, "save_steps": 100})
    platform = Platform(settings.model_copy(update={"hyperparams": hyperparams}))
    validated = read_validated(workspace, key)
    dataset = TrainingDataset(key, validated.rows_path, validated.rows_sha256, validated.rows)
    try:
        base = ensure_base_model(settings, workspace)
        return run_training(platform, base, [dataset], report=lambda _: None).by_dataset[key]
    finally:
        torch.set_num_threads(threads)
