"""The foundations sensor: the base model and the evaluation sets, made once before all else."""

import dagster as dg

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
        names = [key.to_user_string() for key in missing]
        return dg.RunRequest(run_key="+".join(names), asset_selection=missing)

    return foundations_sensor
