"""Deciding: only what is better is served, and what is recorded is served again."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.deployment.decide import decide
from gpu_assets.deployment.records import Deployment
from gpu_assets.evaluation.records import Score
from gpu_assets.ranking.rank import rank_scores
from tests.values import COMPARISON, make_score


def deployed(score: Score) -> Deployment:
    """What is recorded once a score's checkpoint is served."""
    return Deployment(
        checkpoint=score.checkpoint,
        step=score.step,
        weights_sha256=score.weights_sha256,
        served_path="served",
        accuracy=score.accuracy,
        evaluation_set_sha256=score.evaluation_set_sha256,
        decision="it was the first",
        question="?",
        answer="!",
        expected="!",
        decided_at="2026-01-01T00:00:00+00:00",
        verified_at="2026-01-01T00:00:01+00:00",
        decision_to_verified_s=1.0,
        checkpoint_to_verified_s=2.0,
    )


def ranking(*scores: Score):
    return rank_scores(scores, COMPARISON)


def test_nothing_scored_is_not_deployed() -> None:
    decision = decide([], None, None)
    assert (decision.deploy, decision.reason) == (False, "no checkpoint is scored yet")


def test_the_first_that_answers_anything_right_is_deployed() -> None:
    decision = decide(ranking(make_score(5, 1)), None, None)
    assert decision.deploy
    assert "is the first that scores: 0.010" in decision.reason


def test_what_answers_nothing_right_is_never_deployed() -> None:
    decision = decide(ranking(make_score(5, 0)), None, None)
    assert not decision.deploy
    assert "answers none of 100 questions right" in decision.reason


def test_a_better_one_replaces_the_incumbent_and_the_reason_names_both_scores() -> None:
    old, new = make_score(5, 40), make_score(9, 41)
    decision = decide(ranking(old, new), deployed(old), old.weights_sha256)
    assert decision.deploy
    assert decision.reason == f"{new.checkpoint} scores 0.410, {old.checkpoint} 0.400"


def test_an_equal_one_does_not_replace_the_incumbent_whichever_is_earlier() -> None:
    earlier, later = make_score(5, 40), make_score(9, 40)
    for incumbent in (earlier, later):
        assert not decide(ranking(earlier, later), deployed(incumbent), incumbent.weights_sha256).deploy


def test_the_best_that_is_served_already_is_not_flipped_again() -> None:
    best = make_score(5, 40)
    decision = decide(ranking(best), deployed(best), best.weights_sha256)
    assert (decision.deploy, decision.reason) == (False, f"{best.checkpoint} is the best and is served already")


def test_a_recorded_one_that_the_server_lost_is_served_again() -> None:
    best = make_score(5, 40)
    for served in (None, "other weights"):
        decision = decide(ranking(best), deployed(best), served)
        assert decision.deploy
        assert "the server does not serve it" in decision.reason


def test_an_incumbent_without_a_score_on_these_questions_stays_until_it_has_one() -> None:
    decision = decide(ranking(make_score(9, 2)), deployed(make_score(5, 97)), None)
    assert (decision.deploy, decision.serve_again) == (False, True)
    assert "has no score on these questions and with these settings: the judging sensor has it" in decision.reason


def test_the_accuracy_that_counts_is_the_rankings_and_not_the_recorded_one() -> None:
    old, new = make_score(5, 40), make_score(9, 50)
    assert decide(ranking(old, new), replace(deployed(old), accuracy=0.99), old.weights_sha256).deploy


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5)), min_size=1, max_size=8, unique_by=lambda s: s[0]))
def test_after_a_deployment_the_same_ranking_deploys_nothing_more(values: list[tuple[int, int]]) -> None:
    entries = ranking(*(make_score(step, correct, n=5) for step, correct in values))
    best = entries[0].score
    assert decide(entries, None, None).deploy == (best.correct > 0)
    assert not decide(entries, deployed(best), best.weights_sha256).deploy


def test_an_incumbent_that_stays_is_served_again_where_the_server_lost_it() -> None:
    incumbent, equal = make_score(9, 50), make_score(5, 50)
    ranked = ranking(incumbent, equal)
    assert decide(ranked, deployed(incumbent), incumbent.weights_sha256).serve_again is False
    lost = decide(ranked, deployed(incumbent), None)
    assert (lost.deploy, lost.serve_again) == (False, True)
