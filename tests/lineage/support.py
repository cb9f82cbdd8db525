"""Validations as the gates record them, and a run that does."""

import dagster as dg

from gpu_assets.datasets.validations import (
    VALIDATION_METADATA,
    VALIDATION_TAG,
    VALIDATION_TAG_VALUE,
    Validation,
)
from resources.artifacts import sha256_json


def make_validation(key: str = "a", *, rows: int = 100, rejected: int = 0, **changes: object) -> Validation:
    """A passed validation of a dataset whose rows broke `empty_content`, with what a test changes."""
    values: dict[str, object] = {
        "key": key,
        "at": "2026-01-01T10:00:00+00:00",
        "passed": True,
        "sentence": f"{key}: {rows - rejected} of {rows} rows accepted",
        "generator_id": "curriculum",
        "generator_version": "1.0.0",
        "generator_inferred": False,
        "validators": {"content_validator": "2.0.0"},
        "schema": "chat_sft_v1",
        "level": "deep",
        "rows": rows,
        "accepted": rows - rejected,
        "rejected": rejected,
        "rejected_by_rule": {"empty_content": rejected} if rejected else {},
        "tokens": 10 * (rows - rejected),
        "supervised_tokens": 4 * (rows - rejected),
        "duplicates": 0,
        "dataset_sha256": sha256_json(key),
        "duration_s": 0.5,
    }
    return Validation(**{**values, **changes})  # type: ignore[arg-type]


def observation(validation: Validation) -> dg.AssetObservation:
    """The event that a gate records."""
    return dg.AssetObservation(
        "validated_datasets",
        partition=validation.key,
        metadata={VALIDATION_METADATA: dg.MetadataValue.json(validation.to_json())},
        tags={VALIDATION_TAG: VALIDATION_TAG_VALUE},
    )


def observe(instance: dg.DagsterInstance, *validations: Validation) -> None:
    for validation in validations:
        instance.report_runless_asset_event(observation(validation))


def run_take_in(instance: dg.DagsterInstance, *, fails: bool = False) -> str:
    """A run that takes in `a` and, unless it fails, validates it."""

    @dg.op
    def gates(context: dg.OpExecutionContext) -> None:
        context.log_event(dg.AssetMaterialization("datasets", partition="a", tags={"dagster/data_version": "sha-of-a"}))
        context.log_event(observation(make_validation("a", rejected=8, passed=not fails)))
        if fails:
            raise dg.Failure("a is refused: 8 of 100 rows rejected", allow_retries=False)
        context.log_event(
            dg.AssetMaterialization(
                "validated_datasets",
                partition="a",
                tags={"dagster/data_version": "rows-of-a"},
                metadata={
                    "dagster/row_count": 92,
                    "dagster/column_schema": dg.TableSchema([dg.TableColumn("line", "Int64")]),
                },
            )
        )

    @dg.job(executor_def=dg.in_process_executor)
    def take_in() -> None:
        gates()

    return take_in.execute_in_process(instance=instance, raise_on_error=False).run_id
