"""What the ranking leaves out, and why."""

from gpu_assets.ranking.assets import describe_unranked
from resources.workspace import Workspace
from tests.values import COMPARISON, make_checkpoint, make_score


def test_what_is_not_ranked_is_named_with_the_reason(workspace: Workspace) -> None:
    checkpoints = [make_checkpoint(workspace, step, sequence=step) for step in (5, 9, 12)]
    ranked, stale = (make_score(found.step, 1, weights=found.weights_sha256) for found in checkpoints[:2])
    older = make_score(9, 1, weights=stale.weights_sha256, max_new_tokens=32)

    def why(*scores):
        return describe_unranked(checkpoints, scores, COMPARISON)

    assert why(ranked, older) == {
        checkpoints[1].name: "scored with max_new_tokens 32, not 64",
        checkpoints[2].name: "not scored",
    }
    assert why(ranked, older, stale) == {checkpoints[2].name: "not scored"}
