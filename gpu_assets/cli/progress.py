"""How far the loop is, read from Dagster's events and the artifacts' manifests."""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from gpu_assets.deployment.records import Deployment
from gpu_assets.evaluation.records import Score
from gpu_assets.ranking.rank import Ranked, current_ranking
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.records import Checkpoint
from resources.platform import Platform

STAGES = ("datasets", "validated_datasets", "checkpoints", "checkpoint_scores")
FAILED = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
UNFINISHED = dg.RunsFilter(
    statuses=[
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ]
)


@dataclass(frozen=True)
class Row:
    """A checkpoint, and how far it came; what it has not reached is None."""

    checkpoint: Checkpoint
    score: Score | None
    rank: int | None
    seconds_to_served: float | None

    @property
    def was_deployed(self) -> bool:
        return self.seconds_to_served is not None


@dataclass(frozen=True)
class LoopProgress:
    """One look at the whole loop; `partitions` counts materialized partitions per stage."""

    partitions: dict[str, int]
    rows: tuple[Row, ...]
    deployed: Deployment | None
    open_jobs: tuple[str, ...]
    failures: tuple[str, ...]

    def has_judged(self, datasets: int) -> bool:
        """Whether this many datasets went through every stage and nothing is under way."""
        return all(self.partitions[stage] >= datasets for stage in STAGES) and not self.open_jobs


def look(instance: dg.DagsterInstance, platform: Platform) -> LoopProgress:
    """Read the state of the loop."""
    ranked = current_ranking(platform.settings, platform.workspace)
    served = _seconds_to_served(instance)
    return LoopProgress(
        partitions={stage: len(instance.get_materialized_partitions(dg.AssetKey(stage))) for stage in STAGES},
        rows=tuple(_row(checkpoint, ranked, served) for checkpoint in list_checkpoints(platform.workspace)),
        deployed=Deployment.read(platform.workspace),
        open_jobs=tuple(run.job_name for run in instance.get_runs(UNFINISHED)),
        failures=tuple(f"{run.job_name} {run.run_id[:8]}" for run in instance.get_runs(FAILED)),
    )


def _row(checkpoint: Checkpoint, ranked: Sequence[Ranked], served: dict[str, float]) -> Row:
    entry = next((entry for entry in ranked if entry.score.weights_sha256 == checkpoint.weights_sha256), None)
    return Row(
        checkpoint=checkpoint,
        score=entry.score if entry else None,
        rank=entry.rank if entry else None,
        seconds_to_served=served.get(checkpoint.weights_sha256),
    )


def _seconds_to_served(instance: dg.DagsterInstance) -> dict[str, float]:
    """Seconds from a checkpoint's publication to its verified serving, by weights."""
    records = instance.fetch_materializations(dg.AssetKey("deployed_model"), limit=1000).records
    seconds: dict[str, float] = {}
    for record in records:
        metadata = record.asset_materialization.metadata if record.asset_materialization else {}
        if metadata["flipped_in_this_run"].value:
            seconds[str(metadata["weights_sha256"].value)] = _number(metadata["checkpoint_to_verified_s"].value)
    return seconds


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
