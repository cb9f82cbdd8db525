"""Scoring: greedy answers from the right weights, once for the same weights, questions and parameters."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.errors import ArtifactInvalid, EvaluationInvalid, ServiceError
from gpu_assets.evaluation.records import EvaluationSet, Score, ScoringParameters
from gpu_assets.evaluation.score import list_scores, score_checkpoint, score_folder, wilson_interval
from gpu_assets.evaluation.sets import build_evaluation_set
from gpu_assets.training.records import Checkpoint
from resources.workspace import Workspace
from tests.fakes import Say, ScriptedAsker
from tests.values import PARAMETERS, make_checkpoint


@pytest.fixture
def questions() -> EvaluationSet:
    return build_evaluation_set(1)


@pytest.fixture
def checkpoint(workspace: Workspace) -> Checkpoint:
    return make_checkpoint(workspace, step=15, sequence=1)


@pytest.fixture
def golden(questions: EvaluationSet) -> Say:
    """Says the golden answer of every question."""
    answers = {item.question: item.golden_answer for item in questions.items}
    return answers.__getitem__


def score(
    checkpoint: Checkpoint,
    questions: EvaluationSet,
    workspace: Workspace,
    asker: ScriptedAsker,
    parameters: ScoringParameters = PARAMETERS,
) -> Score:
    return score_checkpoint(checkpoint, questions, parameters, asker=asker, concurrency=8, workspace=workspace)


def test_golden_answers_score_one_and_the_interval_says_of_how_many(checkpoint, questions, workspace, golden) -> None:
    found = score(checkpoint, questions, workspace, ScriptedAsker(golden))
    assert (found.correct, found.n, found.accuracy) == (len(questions.items), len(questions.items), 1.0)
    assert found.low < found.high == pytest.approx(1.0)
    assert (found.parse_failure_rate, found.truncation_rate) == (0.0, 0.0)
    assert (found.step, found.weights_sha256, found.loss) == (15, checkpoint.weights_sha256, checkpoint.loss)


def test_every_question_is_asked_of_the_checkpoints_weights_with_the_parameters(
    checkpoint, questions, workspace, golden
) -> None:
    asked: list[str] = []

    def say(question: str) -> str:
        asked.append(question)
        return golden(question)

    asker = ScriptedAsker(say)
    score(checkpoint, questions, workspace, asker)
    assert asked == [item.question for item in questions.items]
    assert asker.calls == [{"model": checkpoint.weights_sha256, "max_tokens": 64, "concurrency": 8}]


def test_rates_count_what_cannot_be_parsed_and_what_was_cut_off(checkpoint, questions, workspace, golden) -> None:
    silent, wrong = questions.items[0].question, questions.items[1].question
    replies = {silent: "I cannot tell", wrong: "⓪ = ⓪"}
    found = score(checkpoint, questions, workspace, ScriptedAsker(lambda q: replies.get(q) or golden(q)))
    assert found.parse_failure_rate == 1 / found.n
    assert found.correct == found.n - 2
    assert found.truncation_rate == 0.0


def test_an_answer_that_was_cut_off_counts_as_truncated(checkpoint, questions, workspace) -> None:
    found = score(checkpoint, questions, workspace, ScriptedAsker(lambda _: "①①", finish_reason="length"))
    assert (found.truncation_rate, found.parse_failure_rate, found.accuracy) == (1.0, 1.0, 0.0)
    assert found.low == pytest.approx(0.0) and found.high > 0


def test_the_same_weights_questions_and_parameters_are_asked_once(checkpoint, questions, workspace, golden) -> None:
    first = score(checkpoint, questions, workspace, ScriptedAsker(golden))
    again = ScriptedAsker(lambda _: "never said")
    assert score(checkpoint, questions, workspace, again) == first
    assert again.calls == []


@pytest.mark.parametrize("change", ["weights", "questions", "tokens", "renderer"])
def test_other_weights_questions_or_parameters_are_asked_anew(change, checkpoint, questions, workspace, golden) -> None:
    first = score(checkpoint, questions, workspace, ScriptedAsker(golden))
    other, parameters = checkpoint, PARAMETERS
    if change == "weights":
        other = make_checkpoint(workspace, step=15, sequence=2)
    elif change == "questions":
        questions = build_evaluation_set(2)
    elif change == "tokens":
        parameters = replace(PARAMETERS, max_new_tokens=32)
    else:
        parameters = replace(PARAMETERS, renderer_digest="another")
    asker = ScriptedAsker(lambda _: "= ①")
    second = score(other, questions, workspace, asker, parameters)
    assert len(asker.calls) == 1
    assert second.identity != first.identity
    assert {found.identity for found in list_scores(workspace)} == {first.identity, second.identity}


def test_answers_of_other_weights_are_refused_and_nothing_is_recorded(checkpoint, questions, workspace, golden) -> None:
    asker = ScriptedAsker(golden, weights="f" * 64)
    with pytest.raises(EvaluationInvalid, match=f"answered by weights ffffffff, wanted .* of {checkpoint.name}"):
        score(checkpoint, questions, workspace, asker)
    assert list_scores(workspace) == []
    assert not score_folder(checkpoint, questions, PARAMETERS, workspace).exists()


def test_a_server_that_fails_midway_leaves_no_score(checkpoint, questions, workspace, golden) -> None:
    def break_down(question: str) -> str:
        if question == questions.items[-1].question:
            raise ServiceError("gone")
        return golden(question)

    with pytest.raises(ServiceError, match="gone"):
        score(checkpoint, questions, workspace, ScriptedAsker(break_down))
    assert list_scores(workspace) == []
    assert score(checkpoint, questions, workspace, ScriptedAsker(golden)).accuracy == 1.0


def test_a_set_whose_golden_answers_do_not_score_is_never_asked(checkpoint, questions, workspace, golden) -> None:
    spoiled = replace(questions, items=(replace(questions.items[0], golden_answer="?"), *questions.items[1:]))
    asker = ScriptedAsker(golden)
    with pytest.raises(EvaluationInvalid, match="does not score"):
        score(checkpoint, spoiled, workspace, asker)
    assert asker.calls == []


def test_the_answers_are_kept_beside_the_score_and_both_read_back(checkpoint, questions, workspace, golden) -> None:
    found = score(checkpoint, questions, workspace, ScriptedAsker(golden))
    assert Score.read(found.folder) == found
    lines = [json.loads(line) for line in (found.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["problem_key"] for line in lines] == [item.problem_key for item in questions.items]
    assert all(line["correct"] and not line["truncated"] for line in lines)


def test_scores_are_listed_by_step_as_a_number_and_folders_without_manifest_passed_over(
    questions, workspace, golden
) -> None:
    for step in (10_000, 9):
        score(make_checkpoint(workspace, step, sequence=step), questions, workspace, ScriptedAsker(golden))
    (workspace.evaluation / "scores" / "checkpoint-1-half").mkdir()
    assert [found.step for found in list_scores(workspace)] == [9, 10_000]


def test_a_folder_without_a_manifest_is_no_score(workspace: Workspace) -> None:
    with pytest.raises(ArtifactInvalid, match="has no manifest.json"):
        Score.read(workspace.evaluation)


# Published values of Wilson's interval without continuity correction (Newcombe 1998, table I, method 3).
@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_has_the_published_values(correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate_lies_in_zero_to_one_and_mirrors(case: tuple[int, int]) -> None:
    correct, n = case
    low, high = wilson_interval(correct, n)
    assert -1e-12 <= low <= correct / n + 1e-12
    assert correct / n - 1e-12 <= high <= 1 + 1e-12
    mirrored_low, mirrored_high = wilson_interval(n - correct, n)
    assert (1 - mirrored_high, 1 - mirrored_low) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(
    ("profile", "shape"), [("emoji_think", "🤔🤔🤔\n{}\n⏹️⏹️"), ("regime3", "<<ANS_START>>{}<<ANS_END>>")]
)
def test_an_answer_is_read_without_what_its_checkpoints_profile_puts_around_it(
    checkpoint, questions, workspace, golden, profile: str, shape: str
) -> None:
    def say(question: str) -> str:
        return shape.format(golden(question))

    checkpoint.manifest["renderer"]["profile"]["name"] = profile
    found = score(checkpoint, questions, workspace, ScriptedAsker(say))
    assert (found.accuracy, found.parse_failure_rate) == (1.0, 0.0)
    kept = json.loads((found.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert kept["text"] == say(questions.items[0].question)
