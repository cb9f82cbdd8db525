"""Foundations: made once, before all else, and only what is missing."""

import dagster as dg
import pytest

from sensors.foundations import build_foundations_sensor


@pytest.fixture
def tick(instance: dg.DagsterInstance):
    sensor = build_foundations_sensor("prepare")
    return lambda: sensor(dg.build_sensor_context(instance=instance))


def record(instance: dg.DagsterInstance, *names: str) -> None:
    for name in names:
        instance.report_runless_asset_event(dg.AssetMaterialization(name))


def test_a_new_instance_gets_one_run_over_both(tick) -> None:
    request = tick()
    assert {key.to_user_string() for key in request.asset_selection} == {"base_model", "evaluation_sets"}
    assert tick().run_key == request.run_key


@pytest.mark.parametrize(("there", "missing"), [("base_model", "evaluation_sets"), ("evaluation_sets", "base_model")])
def test_only_what_is_missing_is_made(tick, instance: dg.DagsterInstance, there: str, missing: str) -> None:
    both = tick().run_key
    record(instance, there)
    request = tick()
    assert [key.to_user_string() for key in request.asset_selection] == [missing]
    assert request.run_key != both


def test_what_is_there_is_not_made_again(tick, instance: dg.DagsterInstance) -> None:
    record(instance, "base_model", "evaluation_sets")
    assert tick().skip_message == "the base model and the evaluation sets are there"


def test_what_was_wiped_is_made_again(tick, instance: dg.DagsterInstance) -> None:
    record(instance, "base_model", "evaluation_sets")
    instance.wipe_assets([dg.AssetKey("base_model")])
    assert [key.to_user_string() for key in tick().asset_selection] == ["base_model"]
