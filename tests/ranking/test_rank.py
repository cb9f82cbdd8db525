"""Ranking: one set of questions, best first, ties to the earlier checkpoint."""

from dataclasses import replace
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.ranking.rank import rank_scores
from tests.values import COMPARISON, make_score, weights_of

scores_strategy = st.lists(
    st.builds(
        make_score,
        st.integers(1, 20_000),
        st.integers(0, 5),
        n=st.just(5),
        evaluation_set=st.sampled_from(["questions", "other"]),
        max_new_tokens=st.sampled_from([64, 32]),
    ),
    max_size=20,
    unique_by=lambda score: score.weights_sha256,
)


def test_the_best_comes_first_and_ranks_count_from_one() -> None:
    ranked = rank_scores([make_score(1, 10), make_score(2, 90), make_score(3, 50)], COMPARISON)
    assert [(entry.rank, entry.score.step) for entry in ranked] == [(1, 2), (2, 3), (3, 1)]


def test_a_tie_goes_to_the_earlier_step_and_steps_compare_as_numbers() -> None:
    ranked = rank_scores([make_score(10_000, 50), make_score(9, 50), make_score(200, 50)], COMPARISON)
    assert [entry.score.step for entry in ranked] == [9, 200, 10_000]


def test_accuracy_is_compared_and_not_the_number_of_right_answers() -> None:
    ranked = rank_scores([make_score(1, 8, n=100), make_score(2, 5, n=10)], COMPARISON)
    assert ranked[0].score.step == 2


def test_scores_on_other_questions_are_not_compared() -> None:
    ranked = rank_scores([make_score(1, 100, evaluation_set="other"), make_score(2, 1)], COMPARISON)
    assert [entry.score.step for entry in ranked] == [2]


def test_scores_taken_with_other_settings_are_not_compared_and_say_why() -> None:
    shorter = make_score(1, 100, max_new_tokens=32)
    assert [entry.score.step for entry in rank_scores([shorter, make_score(2, 1)], COMPARISON)] == [2]
    assert COMPARISON.stale(shorter) == "scored with max_new_tokens 32, not 64"
    elsewhere = make_score(1, 1, evaluation_set="other")
    assert COMPARISON.stale(elsewhere) == "scored on other questions, other, not question"


def test_nothing_scored_is_an_empty_ranking() -> None:
    assert rank_scores([], COMPARISON) == []
    assert rank_scores([make_score(1, 100)], replace(COMPARISON, evaluation_set_sha256="other")) == []


def test_two_branches_at_one_step_have_an_order_that_no_order_of_reading_changes() -> None:
    scores = [make_score(5, 50, weights=weights_of(name)) for name in ("a", "b", "c")]
    orders = {tuple(e.score.weights_sha256 for e in rank_scores(order, COMPARISON)) for order in permutations(scores)}
    assert len(orders) == 1


@given(scores_strategy)
def test_a_ranking_holds_every_comparable_score_once_and_never_rises(scores) -> None:
    ranked = rank_scores(scores, COMPARISON)
    comparable = [score for score in scores if COMPARISON.stale(score) is None]
    assert sorted(entry.score.weights_sha256 for entry in ranked) == sorted(s.weights_sha256 for s in comparable)
    assert [entry.rank for entry in ranked] == list(range(1, len(ranked) + 1))
    keys = [(-entry.score.accuracy, entry.score.step) for entry in ranked]
    assert keys == sorted(keys)
