"""Scoring: every question of a set asked greedily through the server that will serve the model."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from gpu_assets.errors import ArtifactInvalid, EvaluationInvalid
from gpu_assets.evaluation.records import (
    SCORE_KIND,
    Answer,
    EvaluationSet,
    Score,
    ScoringParameters,
    score_identity,
)
from gpu_assets.evaluation.sets import check_golden_answers, problem_of
from gpu_assets.rendering.profiles import get_profile
from gpu_assets.training.records import Checkpoint
from resources.artifacts import MANIFEST_FILE, is_complete, publishing, write_json
from resources.clock import utc_now
from resources.services import ChatAnswer
from resources.workspace import Workspace
from serving.skills import binary

logger = logging.getLogger(__name__)

ANSWERS_FILE = "answers.jsonl"


class Asker(Protocol):
    """Who answers: an inference client."""

    def chat_many(
        self, conversations: Sequence[list[dict[str, str]]], *, model: str, max_tokens: int, concurrency: int
    ) -> list[ChatAnswer]:
        """One greedy answer a conversation, in order."""


def score_checkpoint(
    checkpoint: Checkpoint,
    evaluation_set: EvaluationSet,
    parameters: ScoringParameters,
    *,
    asker: Asker,
    concurrency: int,
    workspace: Workspace,
) -> Score:
    """The checkpoint's score, from disk if these weights were scored in this way before.

    Raises:
        EvaluationInvalid: if the golden answers do not score, or an answer came from other weights.
        ServiceError: if the server does not answer.
    """
    folder = score_folder(checkpoint, evaluation_set, parameters, workspace)
    if is_complete(folder):
        return Score.read(folder)
    check_golden_answers(evaluation_set)
    begun = time.monotonic()
    answers = _ask(checkpoint, evaluation_set, parameters, asker, concurrency)
    score = _summarize(checkpoint, evaluation_set, parameters, answers, time.monotonic() - begun, folder)
    with publishing(folder) as temporary:
        lines = (json.dumps(asdict(answer), ensure_ascii=False) for answer in answers)
        (temporary / ANSWERS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_json(temporary / MANIFEST_FILE, {"kind": SCORE_KIND, "format": 1, "score": score.to_json()})
    return score


def score_folder(
    checkpoint: Checkpoint, evaluation_set: EvaluationSet, parameters: ScoringParameters, workspace: Workspace
) -> Path:
    """Where this score lies: a function of weights, questions and parameters."""
    identity = score_identity(checkpoint.weights_sha256, evaluation_set.sha256, parameters)
    return workspace.evaluation / "scores" / f"{checkpoint.name}-{identity[:8]}"


def list_scores(workspace: Workspace) -> list[Score]:
    """All complete scores, in the order of steps; one that cannot be read is passed over, with an error in the log."""
    scores = []
    for folder in (workspace.evaluation / "scores").glob("*"):
        if not is_complete(folder):
            continue
        try:
            scores.append(Score.read(folder))
        except ArtifactInvalid as error:
            logger.error("passed over: %s", error)
    return sorted(scores, key=lambda score: (score.step, score.scored_at))


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927): honest for small n and for rates near 0 and 1."""
    from scipy.stats import binomtest  # Half a second, which every process that loads the definitions would pay.

    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _ask(
    checkpoint: Checkpoint,
    evaluation_set: EvaluationSet,
    parameters: ScoringParameters,
    asker: Asker,
    concurrency: int,
) -> list[Answer]:
    replies = asker.chat_many(
        [[{"role": "user", "content": item.question}] for item in evaluation_set.items],
        model=checkpoint.weights_sha256,
        max_tokens=parameters.max_new_tokens,
        concurrency=concurrency,
    )
    profile, answers = get_profile(checkpoint.manifest["renderer"]["profile"]["name"]), []
    for item, reply in zip(evaluation_set.items, replies, strict=True):
        if reply.weights_sha256 != checkpoint.weights_sha256:
            raise EvaluationInvalid(
                f"{item.problem_key} was answered by weights {reply.weights_sha256[:8]}, "
                f"wanted {checkpoint.weights_sha256[:8]} of {checkpoint.name}; nothing is recorded"
            )
        problem, said = problem_of(item), profile.bare_answer(reply.text)
        answers.append(
            Answer(
                problem_key=item.problem_key,
                text=reply.text,
                parsed=binary.parse_final(said),
                correct=binary.is_correct(problem, said),
                truncated=reply.finish_reason == "length",
            )
        )
    return answers


def _summarize(
    checkpoint: Checkpoint,
    evaluation_set: EvaluationSet,
    parameters: ScoringParameters,
    answers: Sequence[Answer],
    seconds: float,
    folder: Path,
) -> Score:
    n, correct = len(answers), sum(answer.correct for answer in answers)
    low, high = wilson_interval(correct, n)
    return Score(
        checkpoint=checkpoint.name,
        step=checkpoint.step,
        weights_sha256=checkpoint.weights_sha256,
        skill=evaluation_set.skill,
        level=evaluation_set.level,
        evaluation_set_sha256=evaluation_set.sha256,
        parameters=parameters,
        n=n,
        correct=correct,
        accuracy=correct / n,
        low=low,
        high=high,
        parse_failure_rate=sum(answer.parsed is None for answer in answers) / n,
        truncation_rate=sum(answer.truncated for answer in answers) / n,
        loss=checkpoint.loss,
        seconds=round(seconds, 2),
        scored_at=utc_now(),
        folder=folder,
    )
