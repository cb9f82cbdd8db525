"""The inference host's code location: scoring, ranking and deployment."""

from collections.abc import Iterator
from contextlib import closing

import dagster as dg

from gpu_assets.deployment import assets as deployment
from gpu_assets.evaluation import assets as evaluation
from gpu_assets.ranking import assets as ranking
from gpu_assets.settings import load_settings
from resources.platform import Platform
from resources.routing import Routing
from resources.services import InferenceClient, inference_client
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
        resources={"platform": platform, "inference": _client_resource(platform)},
        executor=dg.in_process_executor,
    )


def _client_resource(platform: Platform) -> dg.ResourceDefinition:
    """The client, made when a run needs it: loading definitions reads no key and opens no connection."""

    @dg.resource
    def inference(_: dg.InitResourceContext) -> Iterator[InferenceClient]:
        with closing(inference_client(platform.settings)) as client:
            yield client

    return inference


@dg.definitions
def defs() -> dg.Definitions:
    return build(Platform(load_settings()))
