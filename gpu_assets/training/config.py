"""Run-time knobs of the training stage."""

from typing import Any, Literal

import dagster as dg
from pydantic import Field


class TrainingConfig(dg.Config):
    """Every default is what the sensor wants: the given datasets once, from the head of the line."""

    datasets: list[str] = Field(
        default=[],
        description="Partition keys to train on, of those that the run covers; empty means all of them.",
    )
    parent: Literal["head", "champion"] = Field(
        default="head", description="Where training goes on: the newest checkpoint of the line, or the served one."
    )
    hyperparams: dict[str, Any] = Field(
        default={},
        description="Over those of config.json and the environment, for this run alone: the same names and bounds. "
        "They decide the plan and are in the checkpoint's manifest; the seed of the preset's weights stays.",
    )
    retrain: bool = Field(
        default=False, description="Train also on datasets that a checkpoint of the line was trained on already."
    )

    @property
    def asked(self) -> dict[str, Any]:
        """What is not the default, the datasets apart: what a run that goes on from this one's resume point asks."""
        return self.model_dump(exclude={"datasets"}, exclude_defaults=True)
