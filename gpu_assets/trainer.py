"""The trainer's code location: taking in, training, the evaluation sets and the ledger."""

import dagster as dg

from gpu_assets.base_model import assets as base_model
from gpu_assets.datasets import assets as datasets
from gpu_assets.evaluation import assets as evaluation
from gpu_assets.lineage import assets as lineage
from gpu_assets.settings import load_settings
from gpu_assets.training import assets as training
from resources.clients import CLIENTS
from resources.platform import Platform
from resources.routing import Routing
from sensors.foundations import build_foundations_sensor
from sensors.inbox import build_inbox_sensor
from sensors.ledger import build_ledger_sensor
from sensors.training import build_training_sensor

PREPARE = "prepare"
TAKE_IN = "take_in"
TRAIN = "train"
LEDGER = "ledger"


def build(platform: Platform) -> dg.Definitions:
    """Everything whose home is the trainer."""
    routing = Routing(platform.settings.hosts)
    return dg.Definitions(
        assets=[
            *base_model.build(routing),
            *datasets.build(routing),
            *training.build(routing),
            *evaluation.build_sets(routing),
            *lineage.build(routing),
        ],
        jobs=[
            dg.define_asset_job(PREPARE, ["base_model", "evaluation_sets"], description="What all else stands on."),
            dg.define_asset_job(TAKE_IN, ["datasets", "validated_datasets"], description="From inbox to fit to train."),
            dg.define_asset_job(TRAIN, ["checkpoints"], description="From validated datasets to the next checkpoint."),
            dg.define_asset_job(LEDGER, ["generator_ledger"], description="Who made what, and what became of it."),
        ],
        sensors=[
            build_foundations_sensor(platform, PREPARE),
            build_inbox_sensor(platform, TAKE_IN),
            build_training_sensor(platform, TRAIN),
            build_ledger_sensor(LEDGER),
        ],
        resources={"platform": platform, **CLIENTS},
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    return build(Platform(load_settings()))
