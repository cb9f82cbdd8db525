"""A checkpoint carries the template that it was trained with, and renders from its own folder as it was trained."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.datasets.parity import PARITY_CHECK, PromptSkew
from gpu_assets.errors import DatasetInvalid
from gpu_assets.rendering import Renderer
from gpu_assets.rendering.template import CHATML, is_thinking
from gpu_assets.settings import Profile, Settings
from gpu_assets.training.assets import build
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.records import Checkpoint, TrainingDataset
from gpu_assets.training.run import run_training
from gpu_assets.training.samples import load_samples
from resources.platform import Platform
from resources.routing import Routing
from resources.workspace import Workspace
from serving.inference.loader import inspect_folder
from tests.sensors.support import add_dataset, add_partitions
from tests.training.conftest import write_rows

ROWS = 16
Train = Callable[[str, int], Checkpoint]


@pytest.fixture
def train(settings: Settings, tmp_path: Path) -> Train:
    """Trains in a profile on a dataset of its own, from the head of the line."""
    hyperparams = settings.hyperparams.model_copy(update={"batch_size": 8, "warmup_steps": 1, "replay_share": 0.0})

    def run(profile: str, seed: int) -> Checkpoint:
        chosen = settings.model_copy(update={"hyperparams": hyperparams, "profile": Profile(name=profile)})
        platform = Platform(chosen)
        dataset = write_rows(tmp_path / f"{seed}.parquet", ROWS, seed)
        base = ensure_base_model(chosen, platform.workspace)
        result = run_training(platform, base, [dataset], report=lambda _: None)
        return result.by_dataset[dataset.key]

    return run


@pytest.mark.parametrize("profile", ["emoji_think", "regime3"])
def test_the_template_that_replaced_the_models_own_is_published_and_served(
    train: Train, settings: Settings, profile: str
) -> None:
    checkpoint = train(profile, 1)
    assert (checkpoint.folder / "chat_template.jinja").read_text(encoding="utf-8") == CHATML
    served = inspect_folder(checkpoint.folder, settings.profile).renderer
    assert (served.template, served.profile.name) == (CHATML, profile)
    assert checkpoint.manifest["renderer"]["template_sha256"] == served.template_sha256


def test_a_line_may_change_its_profile_and_every_checkpoint_is_served_as_it_was_trained(
    train: Train, settings: Settings
) -> None:
    """The template goes on with the line: what replaced the model's own is the model's own from there on."""
    first, second, third = (train(profile, seed) for seed, profile in enumerate(("plain", "emoji_think", "plain")))
    assert third.parent_sha256 == second.weights_sha256 and second.parent_sha256 == first.weights_sha256
    renderers = [inspect_folder(checkpoint.folder, settings.profile).renderer for checkpoint in (first, second, third)]
    assert [renderer.profile.name for renderer in renderers] == ["plain", "emoji_think", "plain"]
    assert is_thinking(renderers[0].template)
    assert [renderer.template for renderer in renderers[1:]] == [CHATML, CHATML]


def test_a_parent_whose_template_changes_while_it_is_trained_on_is_not_published(
    train: Train, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = train("plain", 1)
    from gpu_assets.training import loop

    finish = loop._finish

    def change_and_finish(*arguments, **options):
        (parent.folder / "chat_template.jinja").write_text(CHATML)
        return finish(*arguments, **options)

    monkeypatch.setattr(loop, "_finish", change_and_finish)
    with pytest.raises(PromptSkew, match="changed while it was trained"):
        train("plain", 2)


def test_a_row_that_is_unfit_for_the_profile_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}] for text in ("hello", "🤔🤔")]
    pl.DataFrame({"messages": rows}).write_parquet(tmp_path / "rows.parquet")
    dataset = TrainingDataset("greetings", tmp_path / "rows.parquet", "sha", 2)
    with pytest.raises(DatasetInvalid, match="dataset greetings, accepted row 2: unfit for the profile emoji_think"):
        load_samples([dataset], Renderer.load(tiny_folder, "emoji_think"), max_length=512)


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
@pytest.mark.parametrize("skewed", [False, True])
def test_the_parity_of_a_published_checkpoint_is_a_blocking_check(
    settings: Settings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, skewed: bool
) -> None:
    add_dataset(workspace, "a", rows=32)
    platform = Platform(settings.model_copy(update={"profile": Profile(name="emoji_think")}))
    if skewed:
        served = Renderer.prompt_ids
        monkeypatch.setattr(Renderer, "prompt_ids", lambda self, messages: served(self, messages)[1:])
    with dg.DagsterInstance.ephemeral() as instance:
        add_partitions(instance, "a")
        result = dg.materialize(
            build(Routing(settings.hosts)),
            instance=instance,
            resources={"platform": platform},
            partition_key="a",
            run_config={"ops": {"checkpoints": {"config": {"hyperparams": {"batch_size": 16, "warmup_steps": 1}}}}},
            raise_on_error=False,
        )
        key = dg.AssetCheckKey(dg.AssetKey("checkpoints"), PARITY_CHECK)
        (newest,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert newest.event is not None and newest.event.dagster_event is not None
        found = newest.event.dagster_event.asset_check_evaluation_data
        materialized = instance.get_materialized_partitions(dg.AssetKey("checkpoints"))
    assert (result.success, found.passed, found.blocking) == (not skewed, not skewed, True)
    assert materialized == (set() if skewed else {"a"})
    assert len(list_checkpoints(workspace)) == (0 if skewed else 1)
    if skewed:
        assert "accepted row 1: turn 2 is trained after" in found.metadata["faults"].value["a"]
