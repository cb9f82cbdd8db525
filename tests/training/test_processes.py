"""Training in several processes on the CPU, over gloo: real launches, of about ten seconds each.

They learn what one does, go on from where they were stopped or killed, and leave nothing running behind.
"""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.errors import DiskFull
from gpu_assets.settings import Distributed, Settings
from gpu_assets.training import launch
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.records import Checkpoint, TrainingDataset
from gpu_assets.training.run import run_training
from resources.platform import Platform
from resources.workspace import Workspace
from tests.training import faulty_worker
from tests.training.conftest import write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROWS = 121
"""Sixteen steps, the last of a single row, of which one of two processes gets none."""
HYPERPARAMS = {"batch_size": 8, "warmup_steps": 2, "save_steps": 4}
DEADLINE_S = 120.0

Home = Callable[..., Settings]


class Interrupted(BaseException):
    """What a host of the training raises on a signal, as Dagster does."""


@pytest.fixture
def dataset(tmp_path: Path) -> TrainingDataset:
    return write_rows(tmp_path / "rows.parquet", ROWS)


@pytest.fixture
def home(settings: Settings, tmp_path: Path) -> Home:
    """Settings with a home of its own; with `dropout`, lost random states show in the weights."""
    made = iter(range(100))

    def make(processes: int = 2, sharding: str = "none", *, dropout: float = 0.0, **changes: object) -> Settings:
        hyperparams = settings.hyperparams.model_copy(update=HYPERPARAMS | changes)
        own = settings.model_copy(
            update={
                "home": tmp_path / f"home-{next(made)}",
                "hyperparams": hyperparams,
                "distributed": Distributed(processes=processes, sharding=sharding),
            }
        )
        config = ensure_base_model(own, Workspace(own.home).create()).folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": dropout}))
        return own

    return make


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From now on the workers have it."""

    def choose(name: str) -> None:
        assert name in faulty_worker.FAULTS
        monkeypatch.setenv(faulty_worker.VARIABLE, name)
        monkeypatch.setattr(launch, "WORKER", faulty_worker.MODULE)

    return choose


@pytest.fixture(autouse=True)
def nothing_is_left_running(tmp_path: Path) -> Iterator[None]:
    yield
    assert workers(tmp_path) == []


def workers(folder: Path) -> list[psutil.Process]:
    """Processes whose command names something in this folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(part.startswith(str(folder)) for part in process.info["cmdline"] or ())
    ]


def train(settings: Settings, dataset: TrainingDataset, said: list[str] | None = None) -> Checkpoint:
    platform = Platform(settings)
    base = ensure_base_model(settings, platform.workspace)
    result = run_training(platform, base, [dataset], report=(said if said is not None else []).append)
    return result.by_dataset[dataset.key]


def curve(checkpoint: Checkpoint) -> list[float]:
    return [loss for _, loss in checkpoint.manifest["loss_curve"]]


def wait_for_resume_point(settings: Settings) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not any(Workspace(settings.home).training.glob("*/resume-*/manifest.json")):
        assert time.monotonic() < deadline, "no resume point"
        time.sleep(0.02)


@pytest.mark.parametrize(("sharding", "accumulation"), [("none", 1), ("none", 3), ("full", 1), ("full", 3)])
def test_two_processes_learn_what_one_does(home: Home, dataset, sharding: str, accumulation: int) -> None:
    one = train(home(1, gradient_accumulation=accumulation), dataset)
    two = train(home(2, sharding, gradient_accumulation=accumulation), dataset)
    assert curve(two) == pytest.approx(curve(one), abs=2e-5)  # the manifest's curve has six digits
    assert two.loss == pytest.approx(one.loss, abs=1e-5)
    assert two.manifest["gradient_norm_curve"][0][1] == pytest.approx(one.manifest["gradient_norm_curve"][0][1], 1e-5)
    assert two.manifest["times_seen"] == one.manifest["times_seen"] == [1, 1]
    assert (two.step, two.manifest["tokens"]) == (one.step, one.manifest["tokens"])


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_line_goes_on_with_another_number_of_processes(home: Home, dataset, tmp_path: Path, sharding: str) -> None:
    later = write_rows(tmp_path / "later.parquet", 40, seed=1)
    alone, mixed = home(1), home(2, sharding)
    for settings in (alone, mixed):
        train(settings, dataset)
    one = train(alone, later)
    two = train(mixed, later)
    back = train(mixed.model_copy(update={"distributed": Distributed()}), write_rows(tmp_path / "3.parquet", 8, 2))
    assert curve(two) == pytest.approx(curve(one), abs=2e-5)
    assert back.parent_sha256 == two.weights_sha256


@pytest.mark.parametrize(("processes", "sharding"), [(2, "none"), (3, "none"), (2, "full")])
def test_stopped_by_a_signal_it_goes_on_to_the_weights_of_an_undisturbed_run(
    home: Home, dataset, fault, processes: int, sharding: str
) -> None:
    expected = train(home(processes, sharding, dropout=0.1), dataset)
    stopped, said = home(processes, sharding, dropout=0.1), list[str]()

    def interrupt() -> None:
        wait_for_resume_point(stopped)
        os.kill(os.getpid(), signal.SIGTERM)

    def raise_at_once(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, raise_at_once)
    watcher = threading.Thread(target=interrupt)
    try:
        fault("slow")
        with pytest.raises(Interrupted):
            watcher.start()
            train(stopped, dataset, said)
    finally:
        watcher.join(DEADLINE_S)
        signal.signal(signal.SIGTERM, before)
    assert any(sentence.startswith("asked to end: stopped after step ") for sentence in said)
    assert list_checkpoints(Workspace(stopped.home)) == []
    checkpoint = train(stopped, dataset, said)
    assert checkpoint.manifest["resumed_from_step"] is not None
    assert checkpoint.weights_sha256 == expected.weights_sha256
    assert curve(checkpoint) == curve(expected)


def _train_slowly(settings: Settings, dataset: TrainingDataset) -> None:
    os.environ[faulty_worker.VARIABLE] = "slow"
    launch.WORKER = faulty_worker.MODULE
    train(settings, dataset)


def test_when_the_run_is_killed_its_processes_end_and_the_next_run_waits_for_that(
    home: Home, dataset, tmp_path: Path
) -> None:
    expected = train(home(), dataset)
    killed = home()
    process = multiprocessing.get_context("spawn").Process(target=_train_slowly, args=(killed, dataset))
    process.start()
    try:
        wait_for_resume_point(killed)
    finally:
        process.kill()
        process.join(10)
    checkpoint = train(killed, dataset)
    assert checkpoint.weights_sha256 == expected.weights_sha256
    assert checkpoint.manifest["times_seen"] == [1, 1]


def test_an_error_of_one_process_is_the_runs_and_all_end(home: Home, dataset, fault, tmp_path: Path) -> None:
    fault("failing")
    with pytest.raises(DiskFull, match="the disk of the second process is full") as caught:
        train(home(), dataset)
    assert caught.value.wanted == 7
    assert workers(tmp_path) == []


def test_a_process_that_is_gone_ends_the_run_with_what_is_known(home: Home, dataset, fault, tmp_path: Path) -> None:
    fault("crashing")
    with pytest.raises(RuntimeError, match="training in 2 processes ended with exit code 1"):
        train(home(), dataset)
    assert workers(tmp_path) == []


def test_where_one_process_has_too_little_memory_all_begin_anew_with_smaller_micro_batches(
    home: Home, dataset, fault
) -> None:
    one, said = train(home(1), dataset), list[str]()
    fault("small")
    two = train(home(save_steps=2), dataset, said)
    assert curve(two) == pytest.approx(curve(one), abs=2e-5)
    assert two.manifest["micro_batch_splits"] == 2
    assert two.manifest["resumed_from_step"] == 4
    assert sum("with micro-batches of up to 4 rows: going on with 2" in sentence for sentence in said) == 1


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_all_processes_roll_back_together(home: Home, dataset, fault, sharding: str) -> None:
    fault("diverging")
    said: list[str] = []
    checkpoint = train(home(2, sharding), dataset, said)
    (rollback,) = checkpoint.manifest["rollbacks"]
    assert (rollback["step"], rollback["to_step"]) == (7, 4)
    assert checkpoint.manifest["times_seen"] == [1, 1]
    assert sum("rolled back to step 4" in sentence for sentence in said) == 1
