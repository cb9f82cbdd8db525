"""The service clients as Dagster resources, the same objects in every code location: loading reads no key.

Each is made from the resource `platform` when a run needs it, and closed with the run.
"""

from collections.abc import Callable, Iterator
from contextlib import closing

import dagster as dg

from gpu_assets.settings import Settings
from resources.services import ServiceClient, inference_client, oracle_client, prediction_client


def _resource(make: Callable[[Settings], ServiceClient], description: str) -> dg.ResourceDefinition:
    @dg.resource(required_resource_keys={"platform"}, description=description)
    def client(context: dg.InitResourceContext) -> Iterator[ServiceClient]:
        with closing(make(context.resources.platform.settings)) as made:
            yield made

    return client


CLIENTS: dict[str, dg.ResourceDefinition] = {
    "inference": _resource(inference_client, "The inference server, as the platform deploys to it."),
    "prediction": _resource(prediction_client, "The inference server, as one who asks it."),
    "oracle": _resource(oracle_client, "The inference server, as one who compares checkpoints."),
}
