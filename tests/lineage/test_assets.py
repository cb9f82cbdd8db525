"""The ledger as an asset: counted from events, shown as numbers, tables and a plot, and checked."""

import json
from collections.abc import Callable

import dagster as dg
import pytest

from gpu_assets.lineage.assets import build
from gpu_assets.lineage.events import NEWEST_COUNTED, newest_validation_id
from gpu_assets.lineage.openlineage import export_folder
from resources.platform import Platform
from resources.routing import Routing
from tests.lineage.support import make_validation, observe, run_take_in


@pytest.fixture
def materialize(platform: Platform, instance: dg.DagsterInstance) -> Callable[[], dg.ExecuteInProcessResult]:
    assets = build(Routing(platform.settings.hosts))
    return lambda: dg.materialize(assets, instance=instance, resources={"platform": platform})


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node("generator_ledger")
    return {name: entry.value for name, entry in event.metadata.items()}


def check(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def test_a_generator_that_loses_eight_percent_is_the_worst_offender(
    materialize: Callable[[], dg.ExecuteInProcessResult], instance: dg.DagsterInstance
) -> None:
    observe(instance, *(make_validation(f"bad{n}", rejected=8, generator_id="syllo_local") for n in range(10)))
    observe(instance, *(make_validation(f"good{n}", rejected=1) for n in range(10)))

    result = materialize()

    shown = metadata(result)
    assert shown["num_worst_offenders"] == 1
    assert shown["worst_offenders"] == (
        "- syllo_local@1.0.0 lost 80 of 1,000 rows (8.0%) in 10 validations: empty_content 80"
    )
    assert (shown["rows"], shown["rows_lost"], shown["rejected_rate_percent"]) == (2_000, 90, 4.5)
    assert "| syllo_local@1.0.0 | 10 | 0 | 10 | 0 | 1,000 | 80 | 8.00 |" in str(shown["generators"])
    assert "| curriculum@1.0.0 |" in str(shown["generators"])
    assert "| content_validator@2.0.0 | 20 |" in str(shown["validators"])
    assert "data:image/png;base64," in str(shown["rejected_over_time"])
    assert shown["ledger"]["summary"]["worst_generator"]["id"] == "syllo_local@1.0.0"
    found = check(result)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description is not None and found.description.startswith("syllo_local@1.0.0 lost 80")
    assert result.success, "a warning stops nothing"


def test_a_generator_whose_files_the_spec_gate_refuses_is_named_with_how_many(
    materialize: Callable[[], dg.ExecuteInProcessResult], instance: dg.DagsterInstance
) -> None:
    observe(instance, *(make_validation(f"bad{n}", rows=0, passed=False) for n in range(10)))

    result = materialize()

    assert metadata(result)["worst_offenders"] == (
        "- curriculum@1.0.0 lost 0 of 0 rows (0.0%) in 10 validations, 10 of 10 datasets refused"
    )
    assert not check(result).passed


def test_without_an_offender_the_check_passes(
    materialize: Callable[[], dg.ExecuteInProcessResult], instance: dg.DagsterInstance
) -> None:
    observe(instance, *(make_validation(f"good{n}", rejected=1) for n in range(10)))

    result = materialize()

    assert check(result).passed
    assert metadata(result)["worst_offenders"] == "none"


def test_an_empty_ledger_is_materialized_too(materialize: Callable[[], dg.ExecuteInProcessResult]) -> None:
    shown = metadata(materialize())

    assert (shown["validations"], shown["num_generators"], shown[NEWEST_COUNTED]) == (0, 0, 0)


def test_the_version_is_that_of_what_was_counted_and_the_newest_event_is_named(
    materialize: Callable[[], dg.ExecuteInProcessResult], instance: dg.DagsterInstance
) -> None:
    def version(result: dg.ExecuteInProcessResult) -> str:
        (event,) = result.asset_materializations_for_node("generator_ledger")
        return str((event.tags or {})["dagster/data_version"])

    observe(instance, make_validation("a"))
    first, again = materialize(), materialize()
    observe(instance, make_validation("b"))
    later = materialize()

    assert version(first) == version(again) != version(later)
    assert metadata(later)[NEWEST_COUNTED] == newest_validation_id(instance)


def test_what_is_no_validation_is_shown_and_stops_nothing(
    materialize: Callable[[], dg.ExecuteInProcessResult], instance: dg.DagsterInstance
) -> None:
    observe(instance, make_validation("a"))
    instance.report_runless_asset_event(
        dg.AssetObservation("validated_datasets", partition="b", tags={"gpu_assets/validation": "1"})
    )

    shown = metadata(materialize())

    assert (shown["validations"], shown["num_unreadable"]) == (1, 1)


def test_ended_runs_get_their_openlineage_files(
    materialize: Callable[[], dg.ExecuteInProcessResult], instance: dg.DagsterInstance, platform: Platform
) -> None:
    run_id = run_take_in(instance)

    first = materialize()
    materialize()

    assert metadata(first)["runs_exported"] == 1
    files = {path.stem: path.read_text().splitlines() for path in export_folder(platform.workspace).iterdir()}
    assert files.keys() == {run_id, first.run_id}, "its own run is exported by the next"
    (_, end) = files[first.run_id]
    assert [found["name"] for found in json.loads(end)["outputs"]] == ["generator_ledger"]
