"""`gpu-assets control` as it is typed, on a home whose Dagster instance is real and whose runs are only recorded."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import dagster as dg
import pytest
from click.testing import Result
from dagster._core.events import EngineEventData
from typer.testing import CliRunner

from gpu_assets.cli.control import control_app
from gpu_assets.cli.home import link_instance_config
from gpu_assets.datasets.records import standing_skip
from gpu_assets.settings import Settings
from resources.platform import Platform
from resources.workspace import Workspace
from sensors.control import last_asked, pool_limit
from sensors.training import build_training_sensor
from tests.sensors.support import add_dataset, add_open_run, add_partitions, record

POOL = "gpu-4090"
Control = Callable[..., Result]


@pytest.fixture
def control() -> Control:
    return lambda *arguments: CliRunner().invoke(control_app, [str(argument) for argument in arguments])


@pytest.fixture
def instance(workspace: Workspace, tiny_folder) -> Iterator[dg.DagsterInstance]:
    """The home's own instance and its base model, as `gpu-assets up` leaves them."""
    (workspace.models / "tiny-seed42").symlink_to(tiny_folder)
    link_instance_config(workspace)
    with dg.DagsterInstance.from_config(str(workspace.dagster)) as instance:
        yield instance


@pytest.fixture
def waiting(instance: dg.DagsterInstance, workspace: Workspace) -> Callable[..., None]:
    """Adds validated datasets."""

    def add(*keys: str) -> None:
        for key in keys:
            add_dataset(workspace, key)
        add_partitions(instance, *keys)
        record(instance, "validated_datasets", *keys)

    return add


@pytest.fixture
def tick(instance: dg.DagsterInstance, settings: Settings) -> Callable[[], str]:
    """One tick of the training sensor: what it asks for, or why it asks for nothing."""
    sensor = build_training_sensor(Platform(settings), "train")

    def look() -> str:
        result = sensor(dg.build_sensor_context(instance=instance))
        if isinstance(result, dg.SkipReason):
            return result.skip_message or ""
        assert isinstance(result, dg.RunRequest)
        return "trains " + ",".join(result.run_config["ops"]["checkpoints"]["config"]["datasets"])

    return look


def queued(instance: dg.DagsterInstance, *keys: str) -> dg.DagsterRun:
    return add_open_run(instance, "train", keys[0], keys[-1], status=dg.DagsterRunStatus.QUEUED, datasets=keys)


def status_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def test_a_home_without_an_instance_is_said_with_what_to_start(control: Control, workspace: Workspace) -> None:
    result = control("status")
    assert result.exit_code == 2
    assert "has no Dagster instance yet" in result.output and "`gpu-assets up`" in result.output


def test_where_nothing_trains_status_says_so_and_stop_and_skip_end_with_one(
    control: Control, instance: dg.DagsterInstance
) -> None:
    assert control("status").output.startswith("idle: no training run is queued or running")
    for command, says in (("stop", "`gpu-assets control pause`"), ("skip", "`gpu-assets control skip KEY`")):
        result = control(command)
        assert (result.exit_code, says in result.output) == (1, True)
    result = control("resume")
    assert (result.exit_code, "nothing holds training" in result.output) == (1, True)
    assert last_asked(instance) is None


def test_pause_cancels_what_is_queued_takes_the_slots_away_and_the_sensor_says_why(
    control: Control, instance: dg.DagsterInstance, waiting, tick
) -> None:
    waiting("a", "b")
    run = queued(instance, "a")
    result = control("pause", "--reason", "the room is hot")
    assert (result.exit_code, "training is paused" in result.output) == (0, True)
    assert f"the run {run.run_id[:8]} is CANCELED, ended before training began" in result.output
    assert pool_limit(instance, POOL) == 0
    assert status_of(instance, run) == dg.DagsterRunStatus.CANCELED
    tags = instance.get_run_by_id(run.run_id).tags
    assert (tags["gpu_assets/control"], tags["gpu_assets/reason"]) == ("pause", "the room is hot")
    said = tick()
    assert said.startswith("training is paused since ") and "(the room is hot)" in said
    assert said.endswith("2 datasets wait for training")
    assert control("status").output.startswith("paused: training is paused since")


def test_a_second_pause_keeps_since_when(control: Control, instance: dg.DagsterInstance) -> None:
    control("pause", "--reason", "first")
    asked = last_asked(instance)
    assert control("pause").exit_code == 0
    assert last_asked(instance) == asked


def test_resume_gives_the_slot_back_and_the_sensor_goes_on(
    control: Control, instance: dg.DagsterInstance, waiting, tick
) -> None:
    waiting("a")
    queued(instance, "a")
    control("pause")
    assert control("resume").exit_code == 0
    assert pool_limit(instance, POOL) == 1
    assert tick() == "trains a"


def test_a_stop_holds_what_waits_until_resume_or_a_later_dataset(
    control: Control, instance: dg.DagsterInstance, workspace: Workspace, waiting, tick
) -> None:
    waiting("a")
    run = queued(instance, "a")
    assert control("stop", "--reason", "wrong rate").exit_code == 0
    assert status_of(instance, run) == dg.DagsterRunStatus.CANCELED
    assert pool_limit(instance, POOL) in (None, 1)
    said = tick()
    assert said.startswith(f"the training run {run.run_id[:8]} was ended by request at ") and "(wrong rate)" in said
    assert control("status").output.startswith("stopped: ")
    control("resume")
    assert tick() == "trains a"


def test_after_a_stop_a_dataset_that_is_tried_again_lets_training_go_on(
    control: Control, instance: dg.DagsterInstance, workspace: Workspace, waiting, tick
) -> None:
    from gpu_assets.datasets.records import reopen

    waiting("a", "b")
    queued(instance, "a")
    control("stop")
    assert "ended by request" in tick()
    reopen(workspace.datasets / "b")
    assert tick() == "trains a,b"


def test_a_run_canceled_in_the_ui_is_held_as_one_that_was_stopped(instance: dg.DagsterInstance, waiting, tick) -> None:
    waiting("a")
    instance.run_coordinator.cancel_run(queued(instance, "a").run_id)
    assert "was ended by request" in tick()


def test_a_run_ended_in_the_ui_while_it_still_started_is_held_as_one_that_was_stopped(
    control: Control, instance: dg.DagsterInstance, waiting, tick
) -> None:
    waiting("a")
    run = add_open_run(instance, "train", "a", status=dg.DagsterRunStatus.STARTING, datasets=["a"])
    instance.report_run_canceling(run)
    instance.report_run_failed(run)
    assert "was ended by request" in tick()
    assert control("status").output.startswith("stopped: ")
    control("resume")
    assert tick() == "trains a"


@pytest.mark.parametrize("paused", [False, True])
def test_a_full_disk_that_training_waits_for_is_said_with_what_is_free_and_wanted(
    control: Control, instance: dg.DagsterInstance, waiting, paused: bool
) -> None:
    waiting("a")
    run = add_open_run(instance, "train", "a", datasets=["a"])
    instance.add_run_tags(run.run_id, {"gpu_assets/wanted_bytes": str(10**18)})
    instance.report_run_failed(run)
    if paused:
        control("pause")
    said = control("status").output
    assert said.startswith("paused: training is paused" if paused else "disk full: the disk of ")
    assert " is full: " in said and " GB are free, training goes on with" in said


def test_a_run_that_the_platforms_own_stop_canceled_is_planned_again(
    instance: dg.DagsterInstance, waiting, tick
) -> None:
    waiting("a")
    instance.report_run_canceled(queued(instance, "a"), "The platform was stopped.")
    assert tick() == "trains a"


def test_a_run_that_was_told_to_end_while_it_still_started_has_not_failed(
    instance: dg.DagsterInstance, waiting, tick
) -> None:
    waiting("a")
    run = queued(instance, "a")
    instance.add_run_tags(run.run_id, {"gpu_assets/control": "stop"})
    instance.report_run_failed(run)
    assert "was ended by request" in tick()


def test_skip_sets_aside_what_trains_ends_its_run_and_goes_on_with_the_rest(
    control: Control, instance: dg.DagsterInstance, workspace: Workspace, waiting, tick
) -> None:
    waiting("a", "b")
    run = queued(instance, "a")
    result = control("skip", "--reason", "bad rows", "--json")
    done = json.loads(result.output)
    assert (done["datasets"], done["runs"][0]["id"], done["found"]) == (["a"], run.run_id, True)
    assert done["runs"][0]["status"] == "CANCELED"
    skip = standing_skip(workspace.datasets / "a")
    assert skip is not None and skip.reason == "bad rows"
    assert tick() == "trains b"


def test_a_dataset_that_is_named_is_skipped_and_other_runs_are_left(
    control: Control, instance: dg.DagsterInstance, waiting, tick
) -> None:
    waiting("a", "b")
    run = queued(instance, "a")
    assert control("skip", "b").exit_code == 0
    assert status_of(instance, run) == dg.DagsterRunStatus.QUEUED
    instance.report_run_canceled(run)
    record(instance, "checkpoints", "a")
    assert tick().endswith("set aside until `gpu-assets queue retry KEY`: b")


def test_what_is_unknown_or_trained_is_not_skipped(control: Control, instance: dg.DagsterInstance, waiting) -> None:
    waiting("a")
    record(instance, "checkpoints", "a")
    for key, says in (("nothing", "no dataset has the key"), ("a", "was trained already")):
        result = control("skip", key)
        assert (result.exit_code, says in result.output) == (2, True)


def test_a_skipped_dataset_is_set_aside_in_the_queue_until_it_is_tried_again(
    control: Control, instance: dg.DagsterInstance, workspace: Workspace, waiting, tick
) -> None:
    from gpu_assets.cli.queue import queue_app

    waiting("a")
    control("skip", "a", "--reason", "later")
    (row,) = json.loads(CliRunner().invoke(queue_app, ["list", "--json"]).output)["datasets"]
    assert (row["state"], row["can_retry"]) == ("set aside", True)
    assert row["sentence"].startswith("validated; skipped at ") and ": later; " in row["sentence"]
    assert CliRunner().invoke(queue_app, ["retry", "a"]).exit_code == 0
    assert standing_skip(workspace.datasets / "a") is None
    assert tick() == "trains a"


def test_every_command_is_on_the_assets_page(control: Control, instance: dg.DagsterInstance, waiting) -> None:
    waiting("a")
    for command in (["pause", "--reason", "why"], ["resume"], ["skip", "a"]):
        control(*command)
    events = instance.fetch_observations(dg.AssetKey("checkpoints"), limit=5).records
    found = [event.event_log_entry.asset_observation.metadata["control"].value for event in events]
    assert found == ["skip", "resume", "pause"]


LOCAL = """
import sys, time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.fixture
def local() -> Iterator[subprocess.Popen[str]]:
    """A process that stands for `dagster asset materialize`."""
    process = subprocess.Popen([sys.executable, "-c", LOCAL], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def runs_in(instance: dg.DagsterInstance, run: dg.DagsterRun, process: subprocess.Popen[str]) -> None:
    """Record that the run has this process."""
    pid = dg.MetadataValue.text(str(process.pid))
    instance.report_engine_event("here", run, EngineEventData(metadata={"pid": pid}))


def test_a_run_that_a_terminal_started_is_interrupted_there(
    control: Control, instance: dg.DagsterInstance, waiting, local: subprocess.Popen[str]
) -> None:
    """What Ctrl-C does."""
    waiting("a")
    runs_in(instance, add_open_run(instance, "train", "a", datasets=["a"]), local)
    assert control("stop").exit_code == 0
    assert local.stdout is not None and local.stdout.readline() == "interrupted\n"


def test_a_run_that_starts_is_told_to_end_once_it_has_started(
    control: Control, instance: dg.DagsterInstance, waiting, local: subprocess.Popen[str]
) -> None:
    waiting("a")
    run = add_open_run(instance, "train", "a", status=dg.DagsterRunStatus.STARTING, datasets=["a"])
    runs_in(instance, run, local)
    starts = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name="train")
    timer = threading.Timer(1.0, lambda: instance.report_dagster_event(starts, run.run_id))
    timer.start()
    try:
        assert control("stop").exit_code == 0
    finally:
        timer.join(10)
    wanted = {dg.DagsterEventType.RUN_START, dg.DagsterEventType.RUN_CANCELING}
    seen = [entry.dagster_event.event_type for entry in instance.all_logs(run.run_id, of_type=wanted)]
    assert seen == [dg.DagsterEventType.RUN_START, dg.DagsterEventType.RUN_CANCELING]
