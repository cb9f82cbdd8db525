"""The asset of the ranking stage, at home on the inference host; needs no GPU."""

import dagster as dg

from gpu_assets.evaluation.score import list_scores
from gpu_assets.evaluation.sets import build_evaluation_set
from gpu_assets.ranking.rank import Ranked, rank_scores
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
        evaluation_set = build_evaluation_set(platform.settings.evaluation.level)
        ranked = rank_scores(list_scores(platform.workspace), evaluation_set.sha256)
        if not ranked:
            raise dg.Failure(
                f"no checkpoint is scored on {evaluation_set.name}; materialize checkpoint_scores first",
                allow_retries=False,
            )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(sha256_json([entry.score.identity for entry in ranked])),
            metadata=_describe(ranked),
        )

    return [ranking]


def _describe(ranked: list[Ranked]) -> dict[str, dg.MetadataValue | str | int | float]:
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
        "dagster/row_count": len(ranked),
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
