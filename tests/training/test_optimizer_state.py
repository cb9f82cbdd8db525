"""The optimizer's state of a parent: gone on with where it is whole and fits, and said where it is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpu_assets.base_model.records import BaseModel
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import Hyperparams, Lora, Muon, Optimizer, Settings
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.optimizer_state import find_state, load_parent_state, save_state
from gpu_assets.training.publish import optimizer_of
from gpu_assets.training.records import Checkpoint, Parent, TrainingDataset
from gpu_assets.training.run import run_training
from resources.artifacts import sha256_file, write_json
from resources.platform import Platform
from resources.workspace import Workspace
from tests.training.conftest import write_rows

Change = Callable[[Path], None]
Train = Callable[..., Checkpoint]
ROWS, STEPS = 32, 4


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def train(settings: Settings, base: BaseModel, said: list[str], tmp_path: Path) -> Train:
    """Trains on a dataset of its own, in four steps."""

    def run(seed: int, **changes: object) -> Checkpoint:
        hyperparams = settings.hyperparams.model_copy(update={"batch_size": 8, "warmup_steps": 6, **changes})
        platform = Platform(settings=settings.model_copy(update={"hyperparams": hyperparams}))
        dataset: TrainingDataset = write_rows(tmp_path / f"{seed}.parquet", ROWS, seed)
        (checkpoint,) = run_training(platform, base, [dataset], report=said.append).by_dataset.values()
        return checkpoint

    return run


def state_of(checkpoint: Checkpoint, workspace: Workspace) -> Path:
    folder = optimizer_of(checkpoint.weights_sha256, workspace)
    assert folder is not None
    return folder


def as_written(folder: Path) -> None:
    """Make the manifest say what is in the folder now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"]}
    write_json(folder / "manifest.json", manifest)


def test_a_run_names_the_state_that_it_goes_on_with_and_warms_up_over_what_is_left(
    train: Train, workspace: Workspace
) -> None:
    first = train(0)
    state = state_of(first, workspace)
    identity = sha256_file(state / "optimizer.bin")
    assert json.loads((state / "optimizer.json").read_text())["steps"] == STEPS
    second = train(1)
    assert (first.manifest["optimizer_state"], first.manifest["fresh_optimizer"]) == ({"parent": None}, True)
    assert (second.manifest["optimizer_state"], second.manifest["fresh_optimizer"]) == ({"parent": identity}, False)
    rates = [rate for _, rate in second.manifest["learning_rate_curve"]]
    peak = second.manifest["hyperparams"]["learning_rate"]
    assert rates[:3] == [pytest.approx(peak * share, rel=1e-5) for share in (5 / 6, 1, 1)]
    assert json.loads((state_of(second, workspace) / "optimizer.json").read_text())["steps"] == 2 * STEPS


def cut_short(folder: Path) -> None:
    path = folder / "optimizer.bin"
    path.write_bytes(path.read_bytes()[:-1000])


def with_numbers_that_are_none(folder: Path) -> None:
    state = torch.load(folder / "optimizer.bin", weights_only=True)
    state["state"][0]["exp_avg"][0] = float("nan")
    torch.save(state, folder / "optimizer.bin")
    as_written(folder)


def with_nested_numbers_that_are_none(folder: Path) -> None:
    """As bitsandbytes nests what is quantized, and an 8-bit optimizer of it saved before it was laid out by name."""
    state = torch.load(folder / "optimizer.bin", weights_only=True)
    state["state"][1]["nested"] = {"absmax1": torch.tensor([1.0, float("nan")])}
    torch.save(state, folder / "optimizer.bin")
    as_written(folder)


def cut_short_as_written(folder: Path) -> None:
    cut_short(folder)
    as_written(folder)


def with_torn_facts(folder: Path) -> None:
    (folder / "optimizer.json").write_text('{"type": ')
    as_written(folder)


def of_an_earlier_format(folder: Path) -> None:
    write_json(folder / "manifest.json", {"kind": "optimizer_state", "format": 1, "weights_sha256": folder.name})


BROKEN: dict[str, tuple[Change, str]] = {
    "cut short": (cut_short, "optimizer.bin is not what was written"),
    "cut short before it was hashed": (cut_short_as_written, "optimizer.bin is no optimizer's state"),
    "not finite": (with_numbers_that_are_none, "exp_avg of parameter 0 in .* is not finite"),
    "not finite one level deeper": (with_nested_numbers_that_are_none, "nested of parameter 1 in .* is not finite"),
    "torn facts": (with_torn_facts, "optimizer.json cannot be read"),
    "a missing file": (lambda folder: (folder / "optimizer.bin").unlink(), "optimizer.bin is missing"),
    "a torn manifest": (lambda folder: (folder / "manifest.json").write_text("{") and None, "is not JSON"),
    "no hashes": (of_an_earlier_format, "names no hashes"),
    "nothing": (shutil.rmtree, "no optimizer's state of checkpoint-4-.* is kept"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_state_that_cannot_be_used_is_said(
    fault: str, train: Train, base: BaseModel, workspace: Workspace, settings: Settings
) -> None:
    first = train(0)
    change, reason = BROKEN[fault]
    change(state_of(first, workspace))
    with pytest.raises(ArtifactInvalid, match=reason):
        find_state(_parent(first), settings.hyperparams, workspace)


def test_training_begins_anew_without_a_usable_state_and_the_plan_names_none(
    train: Train, workspace: Workspace, said: list[str]
) -> None:
    first = train(0)
    cut_short(state_of(first, workspace))
    said.clear()
    second = train(1)
    assert (second.manifest["optimizer_state"], second.manifest["fresh_optimizer"]) == ({"parent": None}, True)
    (sentence,) = (line for line in said if "optimizer" in line)
    assert first.name in sentence and sentence.endswith(
        "optimizer.bin is not what was written: the optimizer begins anew"
    )
    assert [checkpoint.name for checkpoint in list_checkpoints(workspace)] == [first.name, second.name]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": Optimizer(type="muon", muon=Muon())}, "it is of adamw, fp32, this run's is muon, fp32"),
        ({"lora": Lora(rank=2)}, "the adapters of LoRA are new, and so is the optimizer's state"),
    ],
)
def test_a_state_of_another_optimizer_is_said(
    changes: dict[str, object], reason: str, train: Train, workspace: Workspace, settings: Settings
) -> None:
    parent = _parent(train(0))
    with pytest.raises(ArtifactInvalid, match=reason):
        find_state(parent, settings.hyperparams.model_copy(update=changes), workspace)


def test_the_state_of_adapters_is_not_kept(train: Train, workspace: Workspace) -> None:
    assert optimizer_of(train(0, lora=Lora(rank=2)).weights_sha256, workspace) is None


def test_a_state_of_other_weights_is_refused_with_its_folder(tmp_path: Path) -> None:
    kept = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))])
    save_state(tmp_path, kept.state_dict(), Hyperparams(), steps=1)
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(ArtifactInvalid, match=f"{tmp_path}.* is no state of this run's optimizer.*move"):
        load_parent_state(tmp_path, other)


def test_a_plan_with_another_state_is_another_plan(make_plan) -> None:
    from dataclasses import replace

    plan = make_plan()
    other = replace(plan, optimizer_state="a" * 64)
    assert plan.plan_id != other.plan_id
    assert plan.to_json()["optimizer_state"] is None


def _parent(checkpoint: Checkpoint) -> Parent:
    return Parent(
        *("checkpoint", checkpoint.name, checkpoint.folder, checkpoint.weights_sha256),
        *(checkpoint.base_weights_sha256, checkpoint.step),
    )
