"""Assets of the evaluation stage: `evaluation_sets` on the trainer, `checkpoint_scores` on the inference host."""

from collections.abc import Iterator
from itertools import islice

import dagster as dg

from gpu_assets.datasets.assets import DATASETS
from gpu_assets.datasets.validated import trained_problem_keys
from gpu_assets.errors import ArtifactInvalid, PlatformError
from gpu_assets.evaluation.config import ScoringConfig
from gpu_assets.evaluation.records import EvaluationSet, Score, ScoringParameters
from gpu_assets.evaluation.score import score_checkpoint
from gpu_assets.evaluation.sets import build_evaluation_set, freeze
from gpu_assets.training.line import find_trained, list_checkpoints
from gpu_assets.training.records import Checkpoint
from resources.artifacts import sha256_json
from resources.events import failure, record_materialization
from resources.platform import Platform
from resources.routing import Routing
from resources.services import InferenceClient
from resources.transfer import transfer_model

GROUP = "evaluation"


def build(routing: Routing) -> list[dg.AssetsDefinition]:
    """The stage's assets, with their hosts' tags and pools."""
    return [*build_sets(routing), *build_scores(routing)]


def build_sets(routing: Routing) -> list[dg.AssetsDefinition]:
    """`evaluation_sets`: at home on the trainer, needs no GPU."""

    @dg.asset(
        group_name=GROUP,
        kinds={"jsonl"},
        tags=routing.tags("trainer"),
        check_specs=[
            dg.AssetCheckSpec("golden_answers", asset="evaluation_sets", blocking=True),
            dg.AssetCheckSpec("disjoint_from_training", asset="evaluation_sets", blocking=True),
        ],
    )
    def evaluation_sets(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        """Frozen held-out problems: the fifth of the problem space that no generator ever emits."""
        evaluation_set = build_evaluation_set(platform.settings.evaluation.level)
        folder = freeze(evaluation_set, platform.workspace)
        leaked = sorted(evaluation_set.problem_keys & trained_problem_keys(platform.workspace))
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(evaluation_set.sha256),
            metadata={
                "path": dg.MetadataValue.path(folder),
                "name": evaluation_set.name,
                "skill": evaluation_set.skill,
                "level": evaluation_set.level,
                "dagster/row_count": len(evaluation_set.items),
                "examples": dg.MetadataValue.json(
                    [[item.question, item.golden_answer] for item in islice(evaluation_set.items, 5)]
                ),
            },
            check_results=[
                dg.AssetCheckResult(check_name="golden_answers", passed=True, metadata={"accuracy": 1.0}),
                dg.AssetCheckResult(
                    check_name="disjoint_from_training",
                    passed=not leaked,
                    metadata={"leaked": dg.MetadataValue.json(leaked[:20]), "num_leaked": len(leaked)},
                ),
            ],
        )

    return [evaluation_sets]


def build_scores(routing: Routing) -> list[dg.AssetsDefinition]:
    """`checkpoint_scores`: at home on the inference host, whose GPU answers."""

    @dg.asset(
        group_name=GROUP,
        kinds={"httpx"},
        tags=routing.tags("inference"),
        pool=routing.gpu_pool("inference"),
        partitions_def=DATASETS,
        deps=["checkpoints", "evaluation_sets"],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def checkpoint_scores(
        context: dg.AssetExecutionContext,
        config: ScoringConfig,
        platform: dg.ResourceParam[Platform],
        inference: dg.ResourceParam[InferenceClient],
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """The dataset's checkpoint on every frozen question, asked through the server that would serve it."""
        covered = list(context.partition_keys)
        try:
            scores = _score_all([*covered, *config.also], platform, inference, context)
        except PlatformError as error:
            raise failure(context, error) from error
        for key in covered:
            context.add_asset_metadata(_describe(scores[key]), partition_key=key)
        for key in set(config.also) - set(covered):
            record_materialization(
                context,
                "checkpoint_scores",
                key,
                data_version=scores[key].identity,
                metadata=_describe(scores[key]),
            )
        return dg.MaterializeResult(data_version=dg.DataVersion(_version([scores[key] for key in covered])))

    return [checkpoint_scores]


def _score_all(
    keys: list[str], platform: Platform, inference: InferenceClient, context: dg.AssetExecutionContext
) -> dict[str, Score]:
    """The score of each dataset's checkpoint; a checkpoint that several datasets made is scored once."""
    evaluation_set = build_evaluation_set(platform.settings.evaluation.level)
    checkpoints = _checkpoints_of(keys, platform)
    scores = {
        weights: _score(checkpoint, evaluation_set, platform, inference, context)
        for weights, checkpoint in {one.weights_sha256: one for one in checkpoints.values()}.items()
    }
    return {key: scores[checkpoint.weights_sha256] for key, checkpoint in checkpoints.items()}


def _checkpoints_of(keys: list[str], platform: Platform) -> dict[str, Checkpoint]:
    published = list_checkpoints(platform.workspace)
    found = {key: find_trained(published, key) for key in keys}
    missing = [key for key, checkpoint in found.items() if checkpoint is None]
    if missing:
        raise ArtifactInvalid(f"no checkpoint was trained on {missing}; materialize checkpoints for them first")
    return {key: checkpoint for key, checkpoint in found.items() if checkpoint is not None}


def _score(
    checkpoint: Checkpoint,
    evaluation_set: EvaluationSet,
    platform: Platform,
    inference: InferenceClient,
    context: dg.AssetExecutionContext,
) -> Score:
    served = transfer_model(checkpoint.folder, platform.workspace.served_models, checkpoint.weights_sha256)
    inference.load(served)
    settings = platform.settings.evaluation
    score = score_checkpoint(
        checkpoint,
        evaluation_set,
        ScoringParameters(settings.max_new_tokens, checkpoint.manifest["renderer"]["digest"]),
        asker=inference,
        concurrency=settings.concurrency,
        workspace=platform.workspace,
    )
    context.log.info(f"{score.checkpoint}: {score.correct} of {score.n} right, {score.accuracy:.3f}")
    return score


def _version(scores: list[Score]) -> str:
    identities = sorted({score.identity for score in scores})
    return identities[0] if len(identities) == 1 else sha256_json(identities)


def _describe(score: Score) -> dict[str, dg.MetadataValue | str | int | float]:
    return {
        "checkpoint": score.checkpoint,
        "step": score.step,
        "accuracy": score.accuracy,
        "accuracy_low": score.low,
        "accuracy_high": score.high,
        "correct": score.correct,
        "n": score.n,
        "parse_failure_rate": score.parse_failure_rate,
        "truncation_rate": score.truncation_rate,
        "loss": score.loss,
        "weights_sha256": score.weights_sha256,
        "evaluation_set_sha256": score.evaluation_set_sha256,
        "renderer_digest": score.parameters.renderer_digest,
        "max_new_tokens": score.parameters.max_new_tokens,
        "duration_s": score.seconds,
        "path": dg.MetadataValue.path(score.folder),
    }
