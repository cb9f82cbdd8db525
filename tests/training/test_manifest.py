"""What a checkpoint's manifest determines: the same dataset, config and seed give the same hash, in any home."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.settings import Settings
from gpu_assets.training.records import DETERMINED_KEYS, MEASURED_KEYS, Checkpoint, determined_part
from gpu_assets.training.run import run_training
from resources.platform import Platform
from resources.workspace import Workspace
from tests.training.conftest import ended_in_step, write_rows

Train = Callable[..., Checkpoint]
SMALL = {"batch_size": 8, "warmup_steps": 1, "save_steps": 1}
STEPS = 3


@pytest.fixture
def train(settings: Settings, tmp_path: Path) -> Train:
    """Trains three steps from the preset, in a home that is made for it where there is none of this name yet."""

    def run(home: str, *, rows_seed: int = 0, **changes: object) -> Checkpoint:
        workspace = Workspace(tmp_path / home).create()
        hyperparams = settings.hyperparams.model_copy(update={**SMALL, **changes})
        own = settings.model_copy(update={"home": workspace.home, "hyperparams": hyperparams})
        dataset = write_rows(workspace.home / "rows.parquet", SMALL["batch_size"] * STEPS, rows_seed)
        result = run_training(Platform(own), ensure_base_model(own, workspace), [dataset], report=lambda _: None)
        return result.by_dataset[dataset.key]

    return run


@pytest.fixture
def first(train: Train) -> Checkpoint:
    return train("first")


def strings(value: object) -> Iterator[str]:
    """Every string in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in (*value, *value.values()):
            yield from strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from strings(entry)


def test_the_same_dataset_config_and_seed_give_the_same_manifest_hash_in_another_home(
    train: Train, first: Checkpoint
) -> None:
    again = train("another/home")
    assert again.folder != first.folder
    assert determined_part(again.manifest) == determined_part(first.manifest)
    assert again.manifest_sha256 == first.manifest_sha256


@pytest.mark.parametrize("changes", [{"seed": 7}, {"learning_rate": 1e-4}, {"rows_seed": 1}])
def test_another_seed_config_or_dataset_gives_another_hash(train: Train, first: Checkpoint, changes: dict) -> None:
    assert train("second", **changes).manifest_sha256 != first.manifest_sha256


def test_a_training_that_was_ended_and_gone_on_with_has_the_hash_of_one_that_was_not(
    train: Train, first: Checkpoint
) -> None:
    with ended_in_step(STEPS):
        train("ended")
    resumed = train("ended")
    assert (resumed.manifest["resumed_from_step"], first.manifest["resumed_from_step"]) == (STEPS - 1, None)
    assert resumed.manifest_sha256 == first.manifest_sha256


def test_every_key_of_a_manifest_is_either_determined_or_measured(first: Checkpoint) -> None:
    assert set(first.manifest) == DETERMINED_KEYS | MEASURED_KEYS, "put a new key into one of the two"
    assert not DETERMINED_KEYS & MEASURED_KEYS


def test_what_is_determined_holds_no_path_of_this_machine(first: Checkpoint, tmp_path: Path) -> None:
    determined = determined_part(first.manifest)
    assert str(tmp_path) not in json.dumps(determined)
    assert [text for text in strings(determined) if Path(text).is_absolute()] == []


def test_only_what_is_determined_changes_the_hash(first: Checkpoint) -> None:
    for key in first.manifest:
        first.manifest[key], before, sha256 = "changed", first.manifest[key], first.manifest_sha256
        assert (first.manifest_sha256 != sha256) == (key in DETERMINED_KEYS), key
        first.manifest[key] = before
