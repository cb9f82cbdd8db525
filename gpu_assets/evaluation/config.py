"""Run-time knobs of the evaluation stage."""

import dagster as dg
from pydantic import Field


class ScoringConfig(dg.Config):
    """The default scores what the run covers, and nothing else."""

    also: list[str] = Field(
        default=[],
        description="Partition keys to score besides those that the run covers, which are a range without gaps.",
    )
