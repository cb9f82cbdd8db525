"""The kill matrix: one training, killed twenty times, ends in the weights of an undisturbed one.

Each life is a process of its own that gets SIGKILL: some in a step, some at a random one of the file operations with
which a resume point is written, some at one of those that publish the checkpoint, one right after it was published.
The attention has dropout, so random states that were lost would show in the weights.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.settings import Settings
from gpu_assets.training.batches import Batch
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.records import Checkpoint, TrainingDataset
from resources.platform import Platform
from resources.workspace import Workspace
from tests.training.conftest import write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Phase = Literal["step", "resume", "publish", "published"]
KILLS: dict[Phase, int] = {"step": 8, "resume": 8, "publish": 3, "published": 1}
EPOCHS = 2
STEPS = 120
HYPERPARAMS = {"batch_size": 8, "warmup_steps": 20, "save_steps": 3, "num_epochs": EPOCHS}
PATHS: dict[Phase, tuple[str, ...]] = {
    "resume": ("resume-",),
    "publish": ("/model/", "/optimizer/", "/optimizers/", "/.checkpoint-"),
    "published": ("/checkpoint-",),
}
SPREAD: dict[Phase, int] = {"step": 8, "resume": 40, "publish": 30, "published": 1}
"""Steps of a life, and file operations of a phase, among which one is drawn: so few that no life gets far."""
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
LIFE_S = 120


@dataclass(frozen=True)
class Aim:
    """When a life ends: in the nth step after some seconds, or at the nth file operation of a phase."""

    phase: Phase
    nth: int
    seconds: float = 0.0


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_in_step(aim: Aim) -> None:
    from gpu_assets.training import loop
    from gpu_assets.training.step import Run

    step, taken = loop.optimizer_step, 0

    def counted(run: Run, batches: Sequence[Batch], rate: float, max_grad_norm: float) -> object:
        nonlocal taken
        taken += 1
        if taken == aim.nth:
            threading.Timer(aim.seconds, _die).start()
        return step(run, batches, rate, max_grad_norm)

    loop.optimizer_step = counted  # type: ignore[assignment]


def _die_in_files(aim: Aim) -> None:
    done = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        if event not in EVENTS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if "/checkpoints/" in path and any(part in path for part in PATHS[aim.phase]):
            done += 1
            if done == aim.nth:
                _die()

    sys.addaudithook(watch)


def _live(settings: Settings, dataset: TrainingDataset, aim: Aim | None) -> None:
    """Train until done, or killed."""
    import torch

    from gpu_assets.training.run import run_training

    torch.set_num_threads(1)
    if aim is not None:
        _die_in_step(aim) if aim.phase == "step" else _die_in_files(aim)
    platform = Platform(settings)
    base = ensure_base_model(settings, platform.workspace)
    run_training(platform, base, [dataset], report=lambda _: None)


@pytest.fixture(scope="module")
def lives() -> Callable[[Settings, TrainingDataset, Aim | None], int]:
    """Runs one life to its end; its exit code. They are forked from a process that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "accelerate", "transformers.models.qwen3.modeling_qwen3"])

    def run(settings: Settings, dataset: TrainingDataset, aim: Aim | None) -> int:
        process = context.Process(target=_live, args=(settings, dataset, aim))
        process.start()
        process.join(LIFE_S)
        process.kill()
        process.join(10)
        assert process.exitcode is not None
        return process.exitcode

    return run


@pytest.fixture
def home(settings: Settings, tmp_path: Path) -> Callable[[str], Settings]:
    """A home with the tiny preset, whose attention drops out a tenth."""

    def make(name: str) -> Settings:
        hyperparams = settings.hyperparams.model_copy(update=HYPERPARAMS)
        own = settings.model_copy(update={"home": tmp_path / name, "hyperparams": hyperparams})
        config = ensure_base_model(own, Workspace(own.home).create()).folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": 0.1}))
        return own

    return make


def only_checkpoint(settings: Settings) -> Checkpoint:
    (checkpoint,) = list_checkpoints(Workspace(settings.home))
    return checkpoint


def aims(rng: random.Random) -> list[Aim]:
    """The lives in and between steps in any order, then those that come to the end of the training."""
    early = [phase for phase in ("step", "resume") for _ in range(KILLS[phase])]
    rng.shuffle(early)
    late: list[Phase] = ["publish"] * KILLS["publish"] + ["published"] * KILLS["published"]
    return [Aim(phase, rng.randint(1, SPREAD[phase]), rng.random() * 0.04) for phase in (*early, *late)]


def test_a_training_killed_twenty_times_ends_in_the_weights_of_an_undisturbed_one(home, lives, tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "rows.parquet", STEPS * 8 // EPOCHS)
    undisturbed, disturbed = home("undisturbed"), home("disturbed")
    assert lives(undisturbed, dataset, None) == 0
    expected = only_checkpoint(undisturbed)
    assert expected.step == STEPS

    planned = aims(random.Random(20))
    assert len(planned) == 20
    for aim in planned:
        assert lives(disturbed, dataset, aim) == -signal.SIGKILL, f"a life was to end at {aim}"
    assert lives(disturbed, dataset, None) == 0

    found = only_checkpoint(disturbed)
    assert found.name == expected.name
    assert found.weights_sha256 == expected.weights_sha256
    assert found.manifest["loss_curve"] == expected.manifest["loss_curve"]
    assert found.manifest["times_seen"] == expected.manifest["times_seen"] == [EPOCHS, EPOCHS]
    assert found.manifest["resumed_from_step"] is not None
    workspace = Workspace(disturbed.home)
    assert {path.name for path in workspace.checkpoints.iterdir()} == {".training", found.name}
    assert {path.name for path in workspace.training.iterdir() if path.is_dir()} == {"optimizers"}
    assert [path.name for path in (workspace.training / "optimizers").iterdir()] == [found.weights_sha256]
