"""The foundations sensor: the base model and the evaluation sets, made once before all else."""

import dagster as dg

from gpu_assets.datasets.records import MAX_FAILURES

FOUNDATIONS = ("base_model", "evaluation_sets")


def build_foundations_sensor(job_name: str) -> dg.SensorDefinition:
    """The sensor that starts a run over what of the foundations was never materialized."""

    @dg.sensor(
        name="foundations_sensor",
        job_name=job_name,
        minimum_interval_seconds=2,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes the base model and the evaluation sets once; materialize them by hand after a change.",
    )
    def foundations_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        keys = [dg.AssetKey(name) for name in FOUNDATIONS]
        missing = [key for key in keys if context.instance.get_latest_materialization_event(key) is None]
        if not missing:
            return dg.SkipReason("the base model and the evaluation sets are there")
        newest = context.instance.get_runs(dg.RunsFilter(job_name=job_name), limit=MAX_FAILURES)
        if any(not run.is_finished for run in newest):
            return dg.SkipReason("a run over the foundations is queued or running")
        names = ", ".join(key.to_user_string() for key in missing)
        if len(newest) == MAX_FAILURES and all(run.status == dg.DagsterRunStatus.FAILURE for run in newest):
            return dg.SkipReason(
                f"{MAX_FAILURES} runs over {names} failed; mend the cause and materialize them by hand"
            )
        return dg.RunRequest(asset_selection=missing)

    return foundations_sensor
