"""Publishing: one complete folder under the weights' name, and what is kept beside it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gpu_assets.base_model.fingerprint import compute_fingerprint
from gpu_assets.base_model.records import BaseModel
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.rendering import Renderer
from gpu_assets.training import publish as publish_module
from gpu_assets.training.line import list_checkpoints, parent_at
from gpu_assets.training.publish import OPTIMIZER_STATES_KEPT, optimizer_of, publish_checkpoint
from gpu_assets.training.records import Checkpoint, Measured, TokenCount, TrainingOutcome
from resources.artifacts import weights_sha256
from resources.workspace import Workspace
from tests.training.conftest import PlanFactory

Publish = Callable[..., Checkpoint]
OutcomeFactory = Callable[..., TrainingOutcome]


@pytest.fixture
def make_outcome(base: BaseModel, tmp_path: Path) -> OutcomeFactory:
    """What training leaves behind, with weights that differ by `shift`."""

    def make(steps: int = 15, shift: float = 0.0) -> TrainingOutcome:
        work = tmp_path / f"work-{steps}-{shift}"
        (work / "optimizer").mkdir(parents=True)
        (work / "optimizer" / "optimizer.bin").write_text(f"state after {steps}, {shift}")
        (work / "model").mkdir()
        for name in ("config.json", "generation_config.json"):
            shutil.copy(base.folder / name, work / "model" / name)
        weights = load_file(base.folder / "model.safetensors")
        weights["model.norm.weight"] += shift
        save_file(weights, work / "model" / "model.safetensors", metadata={"format": "pt"})
        return TrainingOutcome(
            model_folder=work / "model",
            optimizer_folder=work / "optimizer",
            steps=steps,
            loss=0.25,
            loss_curve=((steps, 0.25),),
            gradient_norm_curve=((steps, 1.5),),
            learning_rate_curve=((steps, 0.002),),
            tokens=TokenCount(1_000, 400),
            rows_seen=120,
            times_seen=(1, 1),
            padding_share=0.05,
            seconds=1.5,
            resumed_from_step=None,
            device="cpu",
            measured=Measured(1_000.0, 400.0, 0.4, 1e11, 1.5, 0.002, 500_000_000),
        )

    return make


@pytest.fixture
def publish(make_plan: PlanFactory, make_outcome: OutcomeFactory, base: BaseModel, workspace: Workspace) -> Publish:
    """Publishes an outcome on the head of the line."""

    def run(steps: int = 15, shift: float = 0.0) -> Checkpoint:
        plan = make_plan(parent=parent_at(base, list_checkpoints(workspace)))
        return publish_checkpoint(plan, make_outcome(steps, shift), workspace)

    return run


def test_the_name_says_the_step_and_the_weights_and_the_folder_holds_them(publish: Publish) -> None:
    checkpoint = publish(steps=15)
    assert checkpoint.name == checkpoint.folder.name == f"checkpoint-15-{checkpoint.weights_sha256[:8]}"
    assert weights_sha256(checkpoint.folder) == checkpoint.weights_sha256


def test_steps_add_up_along_the_line_and_sequences_count_publications(publish: Publish, workspace: Workspace) -> None:
    first, second = publish(steps=9, shift=0.1), publish(steps=9_991, shift=0.2)
    assert [(c.step, c.sequence) for c in list_checkpoints(workspace)] == [(9, 1), (10_000, 2)]
    assert second.parent_sha256 == first.weights_sha256
    assert second.base_weights_sha256 == first.base_weights_sha256
    assert second.manifest["parent"] == {
        "kind": "checkpoint",
        "name": first.name,
        "weights_sha256": first.weights_sha256,
        "step": 9,
    }


def test_the_tokenizer_and_the_template_travel_from_the_parent(publish: Publish, base: BaseModel) -> None:
    for checkpoint in (publish(shift=0.1), publish(shift=0.2)):
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert (checkpoint.folder / name).read_bytes() == (base.folder / name).read_bytes()
        assert Renderer.load(checkpoint.folder, "plain").digest == base.renderer.digest
        assert checkpoint.manifest["renderer"] == base.renderer.to_json()


def test_a_published_checkpoint_is_a_folder_that_transformers_loads(publish: Publish) -> None:
    model = AutoModelForCausalLM.from_pretrained(publish().folder, local_files_only=True)
    assert type(model).__name__ == "Qwen3ForCausalLM"


def test_no_optimizer_state_and_nothing_unnamed_is_in_what_is_deployed(publish: Publish) -> None:
    assert {path.name for path in publish().folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "manifest.json",
    }


def test_the_manifest_says_what_was_trained_on_and_how(publish: Publish, make_plan: PlanFactory) -> None:
    manifest, plan = publish().manifest, make_plan()
    assert manifest["datasets"] == [{"key": "rows-0", "sha256": "sha-of-0-120", "rows": 120}]
    assert manifest["hyperparams"] == plan.hyperparams.model_dump()
    assert (manifest["plan_id"], manifest["config_sha256"]) == (plan.plan_id, plan.config_sha256)
    assert (manifest["rows"], manifest["epochs"]) == (120, 1)
    assert manifest["tokens"] == {"total": 1_000, "supervised": 400}
    assert (manifest["loss"], manifest["loss_curve"]) == (0.25, [[15, 0.25]])
    assert manifest["architecture"] == "Qwen3ForCausalLM"


def test_the_manifest_says_what_the_published_weights_answer(publish: Publish) -> None:
    published, other = publish(shift=0.1), publish(shift=0.2)
    renderer = Renderer.load(published.folder, "plain")
    fingerprint = compute_fingerprint(published.folder, renderer).to_json()
    assert published.manifest["fingerprint"] == json.loads(json.dumps(fingerprint))
    assert published.manifest["fingerprint"] != other.manifest["fingerprint"]


def test_a_failure_before_the_manifest_leaves_no_checkpoint(
    make_plan: PlanFactory, make_outcome: OutcomeFactory, workspace: Workspace
) -> None:
    outcome = make_outcome()
    (outcome.model_folder / "config.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        publish_checkpoint(make_plan(), outcome, workspace)
    assert list_checkpoints(workspace) == []
    assert {path.name for path in workspace.checkpoints.iterdir()} == {".training"}


def test_publishing_the_same_weights_again_gives_the_same_checkpoint(
    make_plan: PlanFactory, make_outcome: OutcomeFactory, workspace: Workspace
) -> None:
    plan, outcome = make_plan(), make_outcome()
    first = publish_checkpoint(plan, outcome, workspace)
    again = publish_checkpoint(plan, outcome, workspace)
    assert again == first
    assert again.sequence == 1


def test_a_folder_of_that_name_without_a_manifest_is_not_overwritten(
    make_plan: PlanFactory, make_outcome: OutcomeFactory, workspace: Workspace
) -> None:
    outcome = make_outcome()
    squatter = workspace.checkpoints / f"checkpoint-15-{weights_sha256(outcome.model_folder)[:8]}"
    squatter.mkdir()
    with pytest.raises(ArtifactInvalid, match="exists without a manifest; move it away"):
        publish_checkpoint(make_plan(), outcome, workspace)
    assert list(squatter.iterdir()) == []


def test_the_optimizer_states_of_the_last_checkpoints_are_kept_and_older_ones_removed(
    publish: Publish, workspace: Workspace
) -> None:
    published = []
    for number in range(4):
        published.append(publish(shift=0.1 * (number + 1)))
        kept = optimizer_of(published[-1].weights_sha256, workspace)
        assert kept is not None and (kept / "optimizer.bin").is_file()
        os.utime(kept, ns=(number, number))
    states = [optimizer_of(checkpoint.weights_sha256, workspace) for checkpoint in published]
    assert [state is not None for state in states] == [False, False, True, True]
    assert OPTIMIZER_STATES_KEPT == 2


def test_until_the_checkpoint_is_published_no_older_optimizer_state_goes(
    publish: Publish, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [publish(shift=0.1 * (number + 1)).weights_sha256 for number in range(OPTIMIZER_STATES_KEPT)]

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(publish_module, "_write_template", fail)
    with pytest.raises(OSError, match="no space"):
        publish(shift=0.5)
    assert all(optimizer_of(weights, workspace) is not None for weights in before)


def test_a_kept_optimizer_state_is_complete_or_not_there(publish: Publish, workspace: Workspace) -> None:
    weights = publish().weights_sha256
    kept = optimizer_of(weights, workspace)
    assert kept is not None
    (kept / "manifest.json").unlink()
    assert optimizer_of(weights, workspace) is None
