"""The asset of the deployment stage, at home on the inference host."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol

import dagster as dg

from gpu_assets.deployment.decide import decide
from gpu_assets.deployment.deploy import deploy
from gpu_assets.deployment.records import Decision, Deployment
from gpu_assets.errors import ArtifactInvalid, PlatformError
from gpu_assets.evaluation.sets import build_evaluation_set
from gpu_assets.ranking.rank import Ranked, current_ranking
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.records import Checkpoint
from resources.events import failure
from resources.platform import Platform
from resources.routing import Routing
from resources.services import OWNER, InferenceClient, Pool
from resources.transfer import transfer_model

GROUP = "deployment"


def build(routing: Routing) -> list[dg.AssetsDefinition]:
    """The stage's assets; one pool with `ranking`, so that two promotions never overlap."""

    @dg.multi_asset(
        name="deployed_model",
        group_name=GROUP,
        specs=[
            dg.AssetSpec(
                "deployed_model",
                description="What is served now: the best checkpoint, verified by its hash over the API.",
                deps=["ranking"],
                skippable=True,
                kinds={"httpx"},
                tags=routing.tags("inference"),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec("served_is_recorded", asset="deployed_model", description="The server says this hash.")
        ],
        can_subset=True,
        pool="promotion",
    )
    def deployed_model(
        context: dg.AssetExecutionContext,
        platform: dg.ResourceParam[Platform],
        inference: dg.ResourceParam[InferenceClient],
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:  # type: ignore[type-arg]
        try:
            decision, deployment = _promote(platform, inference)
            context.log.info(decision.reason)
            if deployment is None:
                yield _check(served=inference.info().weights_sha256, recorded=None)
                return
            release_losers(deployment.weights_sha256, inference)
            served = inference.info().weights_sha256
        except PlatformError as error:
            raise failure(context, error) from error
        yield dg.MaterializeResult(
            asset_key="deployed_model",
            data_version=dg.DataVersion(deployment.weights_sha256),
            metadata=_describe(deployment, decision),
            check_results=[_check(served=served, recorded=deployment.weights_sha256)],
        )

    return [deployed_model]


def _check(served: str | None, recorded: str | None) -> dg.AssetCheckResult:
    """A model that a person has served while nothing is recorded is the person's, and no fault."""
    return dg.AssetCheckResult(
        asset_key="deployed_model",
        check_name="served_is_recorded",
        passed=recorded is None or served == recorded,
        metadata={"served": str(served), "recorded": str(recorded)},
    )


def _promote(platform: Platform, inference: InferenceClient) -> tuple[Decision, Deployment | None]:
    """Decide, and flip the alias if so decided; the deployment is None while nothing deserves to be served."""
    workspace = platform.workspace
    evaluation_set = build_evaluation_set(platform.settings.evaluation.level)
    ranked = current_ranking(platform.settings, workspace)
    deployed = Deployment.read(workspace)
    decision = decide(ranked, deployed, inference.info().weights_sha256)
    if decision.deploy:
        best = ranked[0].score
        checkpoint = _checkpoint_of(ranked[0], platform)
        served = transfer_model(checkpoint.folder, workspace.served_models, best.weights_sha256)
        item = evaluation_set.items[checkpoint.step % len(evaluation_set.items)]
        deployed = deploy(best, checkpoint, served, decision, item, server=inference, workspace=workspace)
    elif deployed is not None and decision.serve_again:
        inference.reload(Path(deployed.served_path))
    return decision, deployed


def _checkpoint_of(ranked: Ranked, platform: Platform) -> Checkpoint:
    for checkpoint in list_checkpoints(platform.workspace):
        if checkpoint.weights_sha256 == ranked.score.weights_sha256:
            return checkpoint
    raise ArtifactInvalid(
        f"{ranked.score.checkpoint} is ranked {ranked.rank}, but no checkpoint with weights "
        f"{ranked.score.weights_sha256[:8]} is left; remove its folder under evaluation/scores"
    )


class Holder(Protocol):
    """The inference server, as one who lets go of models sees it."""

    def pool(self) -> Pool:
        """All held models."""

    def unload(self, model_id: str) -> None:
        """Let go of a model."""


def release_losers(deployed_weights: str, server: Holder) -> None:
    """Let the server forget the platform's candidates.

    The champion stays, the one before it, to which going back loads nothing, and what a person loaded.
    """
    for model in server.pool().models:
        stays = model.is_champion or model.is_previous or model.weights_sha256 == deployed_weights
        if model.owner == OWNER and not stays:
            server.unload(model.id)


def _describe(deployment: Deployment, decision: Decision) -> dict[str, dg.MetadataValue | str | int | float]:
    return {
        "checkpoint": deployment.checkpoint,
        "step": deployment.step,
        "weights_sha256": deployment.weights_sha256,
        "accuracy": deployment.accuracy,
        "decision": decision.reason,
        "flipped_in_this_run": decision.deploy,
        "question": deployment.question,
        "answer": deployment.answer,
        "expected": deployment.expected,
        "decision_to_verified_s": deployment.decision_to_verified_s,
        "checkpoint_to_verified_s": deployment.checkpoint_to_verified_s,
        "verified_at": dg.MetadataValue.timestamp(_timestamp(deployment)),
        "path": dg.MetadataValue.path(deployment.served_path),
    }


def _timestamp(deployment: Deployment) -> float:
    return datetime.fromisoformat(deployment.verified_at).timestamp()
