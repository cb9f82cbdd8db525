"""Foundations: made once, before all else, and only what is missing."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from resources.platform import Platform
from sensors.foundations import build_foundations_sensor
from tests.sensors.support import add_failed_run, add_open_run


@pytest.fixture
def tick(instance: dg.DagsterInstance, platform: Platform):
    sensor = build_foundations_sensor(platform, "prepare")
    return lambda: sensor(dg.build_sensor_context(instance=instance))


def record(instance: dg.DagsterInstance, *names: str) -> None:
    for name in names:
        instance.report_runless_asset_event(dg.AssetMaterialization(name))


def test_a_new_instance_gets_one_run_over_both(tick) -> None:
    request = tick()
    assert {key.to_user_string() for key in request.asset_selection} == {"base_model", "evaluation_sets"}


@pytest.mark.parametrize(("there", "missing"), [("base_model", "evaluation_sets"), ("evaluation_sets", "base_model")])
def test_only_what_is_missing_is_made(tick, instance: dg.DagsterInstance, there: str, missing: str) -> None:
    record(instance, there)
    request = tick()
    assert [key.to_user_string() for key in request.asset_selection] == [missing]


def test_while_a_run_is_open_no_other_is_requested(tick, instance: dg.DagsterInstance) -> None:
    run = add_open_run(instance, "prepare", "none")
    assert tick().skip_message == "a run over the foundations is queued or running"
    instance.report_run_canceled(run)
    assert isinstance(tick(), dg.RunRequest)


def test_after_three_failed_runs_it_waits_for_a_person(tick, instance: dg.DagsterInstance) -> None:
    for _ in range(3):
        assert isinstance(tick(), dg.RunRequest)
        add_failed_run(instance, "prepare", "none")
    assert "3 runs over base_model, evaluation_sets failed; mend the cause" in tick().skip_message


def test_a_run_that_was_asked_to_end_while_it_started_is_none_of_the_three(tick, instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        add_failed_run(instance, "prepare", "none")
    run = add_open_run(instance, "prepare", "none", status=dg.DagsterRunStatus.STARTING)
    instance.report_run_canceling(run)
    instance.report_run_failed(run)
    assert isinstance(tick(), dg.RunRequest)


def test_what_is_there_is_not_made_again(tick, instance: dg.DagsterInstance) -> None:
    record(instance, "base_model", "evaluation_sets")
    assert tick().skip_message == "the base model and the evaluation sets are there"


def test_what_was_wiped_is_made_again(tick, instance: dg.DagsterInstance) -> None:
    record(instance, "base_model", "evaluation_sets")
    instance.wipe_assets([dg.AssetKey("base_model")])
    assert [key.to_user_string() for key in tick().asset_selection] == ["base_model"]


def test_a_base_model_that_is_not_there_yet_is_waited_for_and_the_rest_is_made(
    instance: dg.DagsterInstance, platform: Platform, tiny_folder: Path
) -> None:
    settings = platform.settings.model_copy(update={"model_path": "mine"})
    sensor = build_foundations_sensor(Platform(settings), "prepare")

    def tick() -> dg.RunRequest | dg.SkipReason:
        return sensor(dg.build_sensor_context(instance=instance))  # type: ignore[return-value]

    assert [key.to_user_string() for key in tick().asset_selection] == ["evaluation_sets"]
    record(instance, "evaluation_sets")
    assert f"{platform.workspace.models / 'mine'} is not a folder; put the model there" in tick().skip_message

    shutil.copytree(tiny_folder, platform.workspace.models / "mine")
    assert [key.to_user_string() for key in tick().asset_selection] == ["base_model"]
