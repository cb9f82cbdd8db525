"""The inference host's code location: scoring, ranking and deployment."""

import dagster as dg

from gpu_assets.deployment import assets as deployment
from gpu_assets.evaluation import assets as evaluation
from gpu_assets.ranking import assets as ranking
from gpu_assets.settings import load_settings
from resources.clients import CLIENTS
from resources.platform import Platform
from resources.routing import Routing
from sensors.judging import build_judging_sensor

JUDGE = "judge"


def build(platform: Platform) -> dg.Definitions:
    """Everything whose home is the inference host."""
    routing = Routing(platform.settings.hosts)
    return dg.Definitions(
        assets=[*evaluation.build_scores(routing), *ranking.build(routing), *deployment.build(routing)],
        jobs=[
            dg.define_asset_job(
                JUDGE,
                ["checkpoint_scores", "ranking", "deployed_model"],
                description="From a new checkpoint to what is served.",
            )
        ],
        sensors=[build_judging_sensor(platform, JUDGE)],
        resources={"platform": platform, **CLIENTS},
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    return build(Platform(load_settings()))
