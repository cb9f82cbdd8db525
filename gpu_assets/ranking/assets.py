"""The asset of the ranking stage, at home on the inference host; needs no GPU."""

from collections.abc import Iterable

import dagster as dg

from gpu_assets.evaluation.records import Score
from gpu_assets.evaluation.score import list_scores
from gpu_assets.ranking.rank import Comparison, Ranked, rank_scores
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.records import Checkpoint
from resources.artifacts import sha256_json
from resources.platform import Platform
from resources.plots import markdown_picture, score_intervals
from resources.routing import Routing

GROUP = "ranking"
PICTURED = 20


def build(routing: Routing) -> list[dg.AssetsDefinition]:
    """The stage's assets."""

    @dg.asset(
        group_name=GROUP,
        kinds={"python"},
        tags=routing.tags("inference"),
        pool="promotion",
        deps=["checkpoint_scores", "evaluation_sets"],
    )
    def ranking(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """All scored checkpoints in order, with confidence intervals."""
        comparison = Comparison.of(platform.settings)
        scores = list_scores(platform.workspace)
        ranked = rank_scores(scores, comparison)
        if not ranked:
            raise dg.Failure(
                f"no checkpoint is scored on evaluation set {comparison.evaluation_set_sha256[:8]} with "
                f"evaluation.max_new_tokens {comparison.max_new_tokens}; materialize checkpoint_scores first",
                allow_retries=False,
            )
        unranked = describe_unranked(list_checkpoints(platform.workspace), scores, comparison)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(sha256_json([entry.score.identity for entry in ranked])),
            metadata=_describe(ranked, unranked),
        )

    return [ranking]


def describe_unranked(
    checkpoints: Iterable[Checkpoint], scores: Iterable[Score], comparison: Comparison
) -> dict[str, str]:
    """Checkpoint to why it is not ranked; the reason is the newest score's."""
    why = {score.weights_sha256: comparison.stale(score) for score in sorted(scores, key=lambda score: score.scored_at)}
    ranked = {score.weights_sha256 for score in scores if comparison.stale(score) is None}
    return {
        checkpoint.name: why.get(checkpoint.weights_sha256) or "not scored"
        for checkpoint in checkpoints
        if checkpoint.weights_sha256 not in ranked
    }


def _describe(ranked: list[Ranked], unranked: dict[str, str]) -> dict[str, dg.MetadataValue | str | int | float]:
    best = ranked[0].score
    pictured = ranked[:PICTURED]
    picture = score_intervals(
        [entry.score.checkpoint for entry in pictured],
        [(entry.score.low, entry.score.accuracy, entry.score.high) for entry in pictured],
    )
    return {
        "best": best.checkpoint,
        "best_weights_sha256": best.weights_sha256,
        "best_accuracy": best.accuracy,
        "evaluation_set_sha256": best.evaluation_set_sha256,
        "max_new_tokens": best.parameters.max_new_tokens,
        "dagster/row_count": len(ranked),
        "num_unranked": len(unranked),
        "unranked": dg.MetadataValue.json(dict(list(unranked.items())[-PICTURED:])),
        "ranking": dg.MetadataValue.table([_row(entry) for entry in pictured]),
        "intervals": dg.MetadataValue.md(markdown_picture(picture, "held-out accuracy with intervals")),
    }


def _row(entry: Ranked) -> dg.TableRecord:
    score = entry.score
    return dg.TableRecord(
        {
            "rank": entry.rank,
            "checkpoint": score.checkpoint,
            "step": score.step,
            "accuracy": round(score.accuracy, 4),
            "low": round(score.low, 4),
            "high": round(score.high, 4),
            "n": score.n,
            "loss": score.loss,
        }
    )
