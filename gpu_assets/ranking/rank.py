"""The order of scored checkpoints. Pure but for `current_ranking`, which reads the scores."""

from collections.abc import Iterable
from dataclasses import dataclass

from gpu_assets.evaluation.records import Score
from gpu_assets.evaluation.score import list_scores
from gpu_assets.evaluation.sets import build_evaluation_set
from gpu_assets.settings import Settings
from resources.workspace import Workspace


@dataclass(frozen=True)
class Ranked:
    """A score with its place, from 1."""

    rank: int
    score: Score


@dataclass(frozen=True)
class Comparison:
    """What scores must have in common: the questions, and how long an answer may be."""

    evaluation_set_sha256: str
    max_new_tokens: int

    @classmethod
    def of(cls, settings: Settings) -> "Comparison":
        """What scores are taken with now."""
        evaluation = settings.evaluation
        return cls(build_evaluation_set(evaluation.level).sha256, evaluation.max_new_tokens)

    def stale(self, score: Score) -> str | None:
        """Why a score cannot be compared with the others, or None if it can."""
        if score.evaluation_set_sha256 != self.evaluation_set_sha256:
            return f"scored on other questions, {score.evaluation_set_sha256[:8]}, not {self.evaluation_set_sha256[:8]}"
        if score.parameters.max_new_tokens != self.max_new_tokens:
            return f"scored with max_new_tokens {score.parameters.max_new_tokens}, not {self.max_new_tokens}"
        return None


def current_ranking(settings: Settings, workspace: Workspace) -> list[Ranked]:
    """All scores that were taken as the settings say now, best first."""
    return rank_scores(list_scores(workspace), Comparison.of(settings))


def rank_scores(scores: Iterable[Score], comparison: Comparison) -> list[Ranked]:
    """Scores that can be compared, best first.

    Ties go to the earlier checkpoint, so that a later one has to be better to come first; steps compare as numbers.
    """
    comparable = [score for score in scores if comparison.stale(score) is None]
    ordered = sorted(comparable, key=lambda score: (-score.accuracy, score.step, score.weights_sha256))
    return [Ranked(place, score) for place, score in enumerate(ordered, start=1)]
