"""Whether the best checkpoint should be served. Pure."""

from collections.abc import Sequence

from gpu_assets.deployment.records import Decision, Deployment
from gpu_assets.ranking.rank import Ranked


def decide(ranking: Sequence[Ranked], deployed: Deployment | None, served_weights: str | None) -> Decision:
    """The first checkpoint is deployed if it answers anything right, a later one only if it is better.

    Args:
        ranking: best first, all on the same questions with the same settings.
        deployed: what is recorded as served.
        served_weights: the hash that the server itself says it serves, or None.
    """
    if not ranking:
        return Decision(False, "no checkpoint is scored yet")
    best = ranking[0].score
    if deployed is not None and best.weights_sha256 == deployed.weights_sha256:
        if served_weights == best.weights_sha256:
            return Decision(False, f"{best.checkpoint} is the best and is served already")
        return Decision(True, f"{best.checkpoint} is deployed, but the server does not serve it: served again")
    if best.correct == 0:
        return Decision(False, f"{best.checkpoint} is the best and answers none of {best.n} questions right")
    if deployed is None:
        return Decision(True, f"{best.checkpoint} is the first that scores: {best.accuracy:.3f}")
    incumbent = next((entry.score for entry in ranking if entry.score.weights_sha256 == deployed.weights_sha256), None)
    if incumbent is None:
        return Decision(
            False,
            f"{best.checkpoint} scores {best.accuracy:.3f}, and {deployed.checkpoint}, which stays, has no score on "
            "these questions and with these settings: the judging sensor has it scored, or materialize "
            "checkpoint_scores for one of its datasets",
            serve_again=served_weights != deployed.weights_sha256,
        )
    if best.accuracy > incumbent.accuracy:
        return Decision(
            True,
            f"{best.checkpoint} scores {best.accuracy:.3f}, {deployed.checkpoint} {incumbent.accuracy:.3f}",
        )
    return Decision(
        False,
        f"{best.checkpoint} scores {best.accuracy:.3f}, not more than {deployed.checkpoint}, which stays",
        serve_again=served_weights != deployed.weights_sha256,
    )
