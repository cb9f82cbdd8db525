"""The foundations sensor: the base model and the evaluation sets, made once before all else."""

import dagster as dg

from gpu_assets.base_model.describe import what_base_model_lacks
from gpu_assets.datasets.records import MAX_FAILURES
from resources.platform import Platform
from sensors.runs import has_failed

BASE_MODEL = dg.AssetKey("base_model")
FOUNDATIONS = (BASE_MODEL, dg.AssetKey("evaluation_sets"))


def build_foundations_sensor(platform: Platform, job_name: str) -> dg.SensorDefinition:
    """The sensor that starts a run over what of the foundations was never materialized."""

    @dg.sensor(
        name="foundations_sensor",
        job_name=job_name,
        minimum_interval_seconds=2,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes the base model and the evaluation sets once; materialize them by hand after a change.",
    )
    def foundations_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        missing = [key for key in FOUNDATIONS if context.instance.get_latest_materialization_event(key) is None]
        if not missing:
            return dg.SkipReason("the base model and the evaluation sets are there")
        lacking = what_base_model_lacks(platform.settings, platform.workspace)
        if lacking is not None:
            missing = [key for key in missing if key != BASE_MODEL]
        if not missing:
            return dg.SkipReason(f"the base model is waited for: {lacking}")
        newest = context.instance.get_run_records(dg.RunsFilter(job_name=job_name), limit=MAX_FAILURES)
        if any(not record.dagster_run.is_finished for record in newest):
            return dg.SkipReason("a run over the foundations is queued or running")
        names = ", ".join(key.to_user_string() for key in missing)
        if len(newest) == MAX_FAILURES and all(has_failed(context.instance, record) for record in newest):
            return dg.SkipReason(
                f"{MAX_FAILURES} runs over {names} failed; mend the cause and materialize them by hand"
            )
        return dg.RunRequest(asset_selection=missing)

    return foundations_sensor
