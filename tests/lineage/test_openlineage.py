"""Exported files hold run events that the specification's schema accepts."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from jsonschema import Draft202012Validator
from openlineage.client.serde import Serde

from gpu_assets.lineage.events import ended_runs, read_ended_run
from gpu_assets.lineage.openlineage import export_folder, export_runs, run_events, unexported
from gpu_assets.lineage.records import AssetVersion, EndedRun
from resources.workspace import Workspace
from tests.lineage.support import make_validation, run_take_in

SCHEMA = json.loads((Path(__file__).parents[1] / "data" / "openlineage" / "run-event-2-0-2.json").read_text())
RUN_ID = "3f2b0d1e-6f0b-4d5f-9b6a-0a8f3d1c2b4a"


def faults(event: dict[str, Any]) -> list[str]:
    validator = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [error.message for error in validator.iter_errors(event)]


def export(workspace: Workspace, instance: dg.DagsterInstance, limit: int | None = None) -> list[Path]:
    return export_runs(workspace, ended_runs(instance), lambda run_id: read_ended_run(instance, run_id), limit)


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("fails", "end"), [(False, "COMPLETE"), (True, "FAIL")])
def test_a_run_is_a_file_of_two_events_that_the_schema_accepts(
    workspace: Workspace, instance: dg.DagsterInstance, fails: bool, end: str
) -> None:
    run_id = run_take_in(instance, fails=fails)

    (path,) = export(workspace, instance)

    assert path == workspace.home / "lineage" / "openlineage" / f"{run_id}.jsonl"
    events = events_of(path)
    assert [event["eventType"] for event in events] == ["START", end]
    assert [faults(event) for event in events] == [[], []]
    assert {event["run"]["runId"] for event in events} == {run_id}
    assert {event["schemaURL"] for event in events} == {
        "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
    }


def test_the_end_carries_schema_version_rows_and_what_the_gates_found(
    workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    run_take_in(instance)
    (path,) = export(workspace, instance)
    end = events_of(path)[1]

    outputs = {found["name"]: found for found in end["outputs"]}
    validated = outputs["validated_datasets/a"]
    assert validated["facets"]["version"]["datasetVersion"] == "rows-of-a"
    assert [field["name"] for field in validated["facets"]["schema"]["fields"]] == ["line"]
    assert validated["outputFacets"]["outputStatistics"]["rowCount"] == 92
    quality = {found["name"]: found for found in end["inputs"]}["datasets/a"]["inputFacets"]
    assert quality["dataQualityMetrics"]["rowCount"] == 100
    verdicts = {found["assertion"]: found for found in quality["dataQualityAssertions"]["assertions"]}
    assert verdicts["gates"]["success"] is True
    assert (verdicts["empty_content"]["success"], verdicts["empty_content"]["actual"]) == (False, "8")


def test_a_failed_run_says_why(workspace: Workspace, instance: dg.DagsterInstance) -> None:
    run_take_in(instance, fails=True)
    (path,) = export(workspace, instance)
    start, end = events_of(path)

    assert end["run"]["facets"]["errorMessage"]["message"] == "a is refused: 8 of 100 rows rejected"
    assert "errorMessage" not in start["run"]["facets"]


def test_an_export_writes_each_file_once_and_at_most_so_many(
    workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    run_ids = [run_take_in(instance) for _ in range(3)]

    assert [path.stem for path in export(workspace, instance, limit=2)] == run_ids[:2]
    assert unexported(workspace, run_ids) == run_ids[2:]
    assert [path.stem for path in export(workspace, instance)] == run_ids[2:]
    assert export(workspace, instance) == []
    assert sorted(path.stem for path in export_folder(workspace).iterdir()) == sorted(run_ids)


def test_a_run_that_was_deleted_meanwhile_is_passed_over(workspace: Workspace, instance: dg.DagsterInstance) -> None:
    run_id = run_take_in(instance)
    found = ended_runs(instance)
    instance.delete_run(run_id)

    assert export_runs(workspace, found, lambda wanted: read_ended_run(instance, wanted)) == []


def test_a_canceled_run_is_aborted() -> None:
    inputs = (AssetVersion("datasets", "a", validation=make_validation("a", rows=0)),)
    run = EndedRun(RUN_ID, "train", "ABORT", 1.5, 2.0, inputs, ())

    events = [json.loads(Serde.to_json(event)) for event in run_events(run)]

    assert [event["eventType"] for event in events] == ["START", "ABORT"]
    assert [faults(event) for event in events] == [[], []]
    assert events[0]["eventTime"] == "1970-01-01T00:00:01.500+00:00"


@pytest.mark.parametrize(
    "change",
    [
        {"eventType": "DONE"},
        {"eventTime": "yesterday"},
        {"run": {"runId": "1"}},
        {"job": {"name": "take_in"}},
        {"outputs": [{"namespace": "n", "name": "x", "facets": {"version": {"datasetVersion": "1"}}}]},
    ],
)
def test_the_schema_of_the_tests_refuses_what_the_specification_refuses(change: dict[str, Any]) -> None:
    (event, _) = run_events(EndedRun(RUN_ID, "train", "COMPLETE", 1.0, 2.0, (), ()))

    assert faults(Serde.to_dict(event)) == []
    assert faults({**Serde.to_dict(event), **change}) != []
