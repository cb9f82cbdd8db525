"""From what the gates found to the validation that the ledger counts."""

from typing import Any

from gpu_assets.datasets.records import Dataset
from gpu_assets.datasets.validate import GateRefused
from gpu_assets.datasets.validated import ValidatedDataset
from gpu_assets.datasets.validations import Validation
from resources.clock import utc_now
from validators import VALIDATORS, Rule, Severity

UNKNOWN = "unknown"
"""The generator of a dataset whose sidecar could not be read."""
_DUPLICATES = (Rule.EXACT_DUPLICATE.value, Rule.NEAR_DUPLICATE.value)


def validation_of_pass(dataset: Dataset, validated: ValidatedDataset, seconds: float) -> Validation:
    """A dataset that went through both gates in `seconds`."""
    generator, report = validated.manifest["generator"], validated.report
    return _validation(
        dataset,
        (True, validated.headline),
        (generator["id"], generator["version"], generator["inferred"]),
        report,
        seconds,
    )


def validation_of_refusal(dataset: Dataset, refusal: GateRefused, seconds: float) -> Validation:
    """A dataset that a gate refused after `seconds`."""
    sidecar = refusal.sidecar
    made_by = (
        (UNKNOWN, None, True)
        if sidecar is None
        else (sidecar.generator_id, sidecar.generator_version, sidecar.inferred)
    )
    report = None if refusal.report is None else refusal.report.to_json()
    return _validation(dataset, (False, str(refusal)), made_by, report, seconds)


def _validation(
    dataset: Dataset,
    verdict: tuple[bool, str],
    made_by: tuple[str, str | None, bool],
    report: dict[str, Any] | None,
    seconds: float,
) -> Validation:
    found = report or {}
    problems, stats = found.get("problems", []), found.get("stats", {})
    rejected_by_rule = {one["rule"]: one["count"] for one in problems if one["severity"] == Severity.REJECT_ROW}
    return Validation(
        key=dataset.key,
        at=utc_now(),
        passed=verdict[0],
        sentence=verdict[1],
        generator_id=made_by[0],
        generator_version=made_by[1],
        generator_inferred=made_by[2],
        validators=dict(VALIDATORS),
        schema=found.get("schema"),
        level=found.get("level"),
        rows=found.get("rows", 0),
        accepted=found.get("accepted", 0),
        rejected=found.get("rejected", 0),
        rejected_by_rule=rejected_by_rule,
        tokens=stats.get("num_tokens", {}).get("total", 0),
        supervised_tokens=stats.get("num_supervised", {}).get("total", 0),
        duplicates=sum(one["count"] for one in problems if one["rule"] in _DUPLICATES),
        dataset_sha256=dataset.sha256,
        duration_s=round(seconds, 3),
    )
