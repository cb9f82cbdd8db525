"""The order of scored checkpoints. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from gpu_assets.evaluation.records import Score


@dataclass(frozen=True)
class Ranked:
    """A score with its place, from 1."""

    rank: int
    score: Score


def rank_scores(scores: Iterable[Score], evaluation_set_sha256: str) -> list[Ranked]:
    """Scores on one evaluation set, best first.

    Only scores on the same questions are compared. Ties go to the earlier checkpoint, so that a
    later one has to be better to come first; steps compare as numbers.
    """
    comparable = [score for score in scores if score.evaluation_set_sha256 == evaluation_set_sha256]
    ordered = sorted(comparable, key=lambda score: (-score.accuracy, score.step, score.weights_sha256))
    return [Ranked(place, score) for place, score in enumerate(ordered, start=1)]
