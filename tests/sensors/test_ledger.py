"""The ledger sensor: a run when a validation is newer than the ledger, one at a time."""

import dagster as dg
import pytest

from gpu_assets.lineage.events import NEWEST_COUNTED, newest_validation_id
from sensors.ledger import build_ledger_sensor, plan_ledger
from tests.lineage.support import make_validation, observe
from tests.sensors.support import add_failed_run, add_open_run


@pytest.fixture
def tick(instance: dg.DagsterInstance):
    sensor = build_ledger_sensor("ledger")
    return lambda: sensor(dg.build_sensor_context(instance=instance))


def count(instance: dg.DagsterInstance) -> None:
    """Materialize the ledger as of now."""
    counted = newest_validation_id(instance) or 0
    instance.report_runless_asset_event(dg.AssetMaterialization("generator_ledger", metadata={NEWEST_COUNTED: counted}))


@pytest.mark.parametrize(
    ("newest", "counted", "is_open", "failed", "says"),
    [
        (None, None, False, 0, "nothing was validated"),
        (5, 5, False, 0, "every validation is in the ledger"),
        (5, 7, False, 0, "every validation is in the ledger"),
        (5, 4, True, 0, "queued or running"),
        (5, 4, False, 3, "3 runs over the ledger failed"),
        (5, None, False, 2, None),
        (5, 4, False, 0, None),
    ],
)
def test_a_run_is_planned_where_the_ledger_is_behind(
    newest: int | None, counted: int | None, is_open: bool, failed: int, says: str | None
) -> None:
    reason = plan_ledger(newest, counted, is_open=is_open, failed=failed)

    assert reason is None if says is None else reason is not None and says in reason


def test_a_burst_of_validations_is_one_run_and_then_none(tick, instance: dg.DagsterInstance) -> None:
    assert tick().skip_message == "nothing was validated yet"
    observe(instance, *(make_validation(f"d{n}") for n in range(5)))
    assert isinstance(tick(), dg.RunRequest)
    count(instance)
    assert tick().skip_message == "every validation is in the ledger"


def test_a_validation_that_came_while_the_ledger_counted_is_counted_by_the_next_run(
    tick, instance: dg.DagsterInstance
) -> None:
    observe(instance, make_validation("a"))
    before = newest_validation_id(instance) or 0
    observe(instance, make_validation("b"))
    instance.report_runless_asset_event(dg.AssetMaterialization("generator_ledger", metadata={NEWEST_COUNTED: before}))

    assert isinstance(tick(), dg.RunRequest)


def test_while_a_run_is_open_no_other_is_requested(tick, instance: dg.DagsterInstance) -> None:
    observe(instance, make_validation("a"))
    run = add_open_run(instance, "ledger", "none")
    assert tick().skip_message == "a run over the ledger is queued or running"
    instance.report_run_canceled(run)
    assert isinstance(tick(), dg.RunRequest)


def test_after_three_failed_runs_it_waits_until_the_ledger_was_made_by_hand(tick, instance: dg.DagsterInstance) -> None:
    observe(instance, make_validation("a"))
    for _ in range(3):
        assert isinstance(tick(), dg.RunRequest)
        add_failed_run(instance, "ledger", "none")
    assert "3 runs over the ledger failed; mend the cause" in tick().skip_message
    count(instance)
    observe(instance, make_validation("b"))
    assert isinstance(tick(), dg.RunRequest)


def test_a_run_that_was_asked_to_end_while_it_started_is_none_of_the_three(tick, instance: dg.DagsterInstance) -> None:
    observe(instance, make_validation("a"))
    run = add_open_run(instance, "ledger", "none", status=dg.DagsterRunStatus.STARTING)
    instance.report_run_canceling(run)
    instance.report_run_failed(run)
    for _ in range(2):
        add_failed_run(instance, "ledger", "none")
    assert isinstance(tick(), dg.RunRequest)
    add_failed_run(instance, "ledger", "none")
    assert "3 runs over the ledger failed" in tick().skip_message
