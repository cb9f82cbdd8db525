"""All assets at once, for one machine and the command line: `dagster asset materialize -m gpu_assets.definitions`."""

import dagster as dg

from gpu_assets import inference, trainer
from gpu_assets.settings import load_settings
from resources.platform import Platform


@dg.definitions
def defs() -> dg.Definitions:
    platform = Platform(load_settings())
    return dg.Definitions.merge(trainer.build(platform), inference.build(platform))
