"""Runs as OpenLineage 2-0-2 run events, a file a run: `<home>/lineage/openlineage/<run id>.jsonl`.

Each file holds START and then COMPLETE, FAIL or ABORT. It appears by rename and is never written again, so an
export can be repeated. Importing OpenLineage's client takes a third of a second: import this inside functions.
"""

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    data_quality_assertions_dataset,
    data_quality_metrics_input_dataset,
    dataset_version_dataset,
    error_message_run,
    job_type_job,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
)
from openlineage.client.generated.base import DatasetFacet, InputDatasetFacet
from openlineage.client.serde import Serde

from gpu_assets.datasets.validations import Validation
from gpu_assets.lineage.records import AssetVersion, EndedRun
from resources.workspace import Workspace

NAMESPACE = "gpu-assets"


def export_folder(workspace: Workspace) -> Path:
    return workspace.home / "lineage" / "openlineage"


def unexported(workspace: Workspace, run_ids: Iterable[str]) -> list[str]:
    """Those of the runs that have no file yet, in their order."""
    folder = export_folder(workspace)
    exported = {path.stem for path in folder.glob("*.jsonl")} if folder.is_dir() else set()
    return [run_id for run_id in run_ids if run_id not in exported]


def export_runs(
    workspace: Workspace, run_ids: Iterable[str], read: Callable[[str], EndedRun | None], limit: int | None = None
) -> list[Path]:
    """Write the files that are missing, the first `limit` of them, and return their paths.

    A run of which `read` gives nothing is passed over: it was deleted meanwhile.
    """
    folder = export_folder(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for run_id in unexported(workspace, run_ids)[:limit]:
        if (run := read(run_id)) is not None:
            path = folder / f"{run_id}.jsonl"
            _write(path, "".join(f"{Serde.to_json(event)}\n" for event in run_events(run)))
            written.append(path)
    return written


def run_events(run: EndedRun) -> tuple[RunEvent, RunEvent]:
    """START, with what the run read, and how it ended, with what it wrote too."""
    job = Job(
        NAMESPACE,
        run.job,
        facets={"jobType": job_type_job.JobTypeJobFacet("BATCH", "DAGSTER", jobType="JOB", producer=_producer())},
    )
    inputs = [_input(found) for found in run.inputs]
    start = RunEvent(
        eventType=RunState.START,
        eventTime=_time(run.started_at),
        run=_run(run, error=None),
        job=job,
        inputs=inputs,
        producer=_producer(),
    )
    end = RunEvent(
        eventType=RunState[run.outcome],
        eventTime=_time(run.ended_at),
        run=_run(run, run.error),
        job=job,
        inputs=inputs,
        outputs=[_output(found) for found in run.outputs],
        producer=_producer(),
    )
    return start, end


def _run(run: EndedRun, error: str | None) -> Run:
    engine = processing_engine_run.ProcessingEngineRunFacet(version("dagster"), name="Dagster", producer=_producer())
    found = Run(run.run_id, facets={"processing_engine": engine})
    if error is not None and found.facets is not None:
        found.facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "PYTHON", producer=_producer())
    return found


def _input(found: AssetVersion) -> InputDataset:
    facets = {} if found.validation is None else _quality(found.validation)
    return InputDataset(NAMESPACE, found.name, facets=_facets(found), inputFacets=facets)


def _output(found: AssetVersion) -> OutputDataset:
    output = OutputDataset(NAMESPACE, found.name, facets=_facets(found))
    if found.row_count is not None and output.outputFacets is not None:
        output.outputFacets["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=found.row_count, producer=_producer()
        )
    return output


def _facets(found: AssetVersion) -> dict[str, DatasetFacet]:
    facets: dict[str, DatasetFacet] = {}
    if found.version is not None:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(found.version, producer=_producer())
    if found.columns:
        fields = [schema_dataset.SchemaDatasetFacetFields(name, type=kind) for name, kind in found.columns]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields, producer=_producer())
    return facets


def _quality(validation: Validation) -> dict[str, InputDatasetFacet]:
    """The gates' verdict, then each rule that rejected rows, as assertions on the file that they looked at."""
    of_rule = [
        data_quality_assertions_dataset.Assertion(rule, success=False, severity="warn", expected="0", actual=str(count))
        for rule, count in sorted(validation.rejected_by_rule.items())
        if count
    ]
    verdict = data_quality_assertions_dataset.Assertion(
        "gates", success=validation.passed, severity="error", description=validation.sentence
    )
    return {
        "dataQualityMetrics": data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet(
            columnMetrics={}, rowCount=validation.rows, producer=_producer()
        ),
        "dataQualityAssertions": data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
            [verdict, *of_rule], producer=_producer()
        ),
    }


@cache
def _producer() -> str:
    try:
        return f"urn:gpu-assets:{version('gpu-assets')}"
    except PackageNotFoundError:
        return "urn:gpu-assets:unknown"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
