"""What is read from a real instance: validations in their order, and what runs read and wrote."""

import dagster as dg
import pytest

from gpu_assets import definitions
from gpu_assets.datasets.validations import VALIDATION_METADATA, VALIDATION_TAG
from gpu_assets.lineage import events
from gpu_assets.lineage.events import (
    PARTITIONED,
    UPSTREAM,
    ended_runs,
    newest_validation_id,
    read_ended_run,
    read_validations,
)
from tests.lineage.support import make_validation, observe, run_take_in

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def test_an_instance_without_validations_has_none(instance: dg.DagsterInstance) -> None:
    assert newest_validation_id(instance) is None
    assert read_validations(instance).validations == ()


def test_validations_are_read_over_pages_in_the_order_in_which_they_were_made(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PAGE", 2)
    made = [make_validation(f"d{n}", rejected=n) for n in range(5)]
    observe(instance, *made)

    observed = read_validations(instance)

    assert list(observed.validations) == made
    assert observed.newest_id == newest_validation_id(instance)


def test_other_observations_are_no_validations_and_a_broken_one_is_named_and_passed_over(
    instance: dg.DagsterInstance,
) -> None:
    observe(instance, make_validation("a"))
    instance.report_runless_asset_event(dg.AssetObservation("validated_datasets", partition="b", metadata={"x": 1}))
    newest = newest_validation_id(instance)
    instance.report_runless_asset_event(
        dg.AssetObservation(
            "validated_datasets",
            partition="c",
            tags={VALIDATION_TAG: "1"},
            metadata={VALIDATION_METADATA: dg.MetadataValue.json({"key": "c"})},
        )
    )

    observed = read_validations(instance)

    assert [found.key for found in observed.validations] == ["a"]
    assert len(observed.unreadable) == 1 and "'c'" in observed.unreadable[0]
    assert newest is not None and observed.newest_id is not None and newest < observed.newest_id


def test_the_upstream_assets_are_those_of_the_graph() -> None:
    graph = definitions.defs().resolve_asset_graph()
    keys = graph.get_all_asset_keys()

    deps = {key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys} for key in keys}
    assert deps == {asset: set(upstream) for asset, upstream in UPSTREAM.items()}
    assert {key.to_user_string() for key in keys if graph.get(key).is_partitioned} == PARTITIONED


def test_a_run_is_read_with_versions_rows_columns_and_its_validations(instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization("base_model", tags={"dagster/data_version": "weights"}))
    run_id = run_take_in(instance)

    run = read_ended_run(instance, run_id)

    assert run is not None
    assert (run.job, run.outcome, run.error) == ("take_in", "COMPLETE", None)
    assert run.started_at <= run.ended_at
    assert {found.name: (found.version, found.row_count, found.columns) for found in run.outputs} == {
        "datasets/a": ("sha-of-a", None, ()),
        "validated_datasets/a": ("rows-of-a", 92, (("line", "Int64"),)),
    }
    assert {found.name: found.version for found in run.inputs} == {
        "base_model": "weights",
        "datasets/a": "sha-of-a",
        "evaluation_sets": None,
    }
    (quality,) = [found.validation for found in run.inputs if found.validation is not None]
    assert quality.rejected == 8


def test_a_run_that_failed_says_why_and_keeps_the_refused_files_validation(instance: dg.DagsterInstance) -> None:
    run = read_ended_run(instance, run_take_in(instance, fails=True))

    assert run is not None
    assert run.outcome == "FAIL"
    assert run.error == "a is refused: 8 of 100 rows rejected"
    assert [found.name for found in run.outputs] == ["datasets/a"]
    assert [found.name for found in run.inputs if found.validation is not None] == ["datasets/a"]


def test_runs_are_listed_when_they_have_ended(instance: dg.DagsterInstance) -> None:
    first, second = run_take_in(instance), run_take_in(instance)

    @dg.job
    def queued() -> None:
        pass

    open_run = instance.create_run_for_job(queued).run_id

    assert ended_runs(instance) == [first, second]
    assert read_ended_run(instance, open_run) is None
