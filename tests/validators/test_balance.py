"""What rows show together: lengths and answers of a skill, one answer too often, drift from the past."""

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.settings import SkillBounds, Validation
from validators import Rule
from validators.balance import MIN_ROWS, find_imbalance, find_imbalanced_turns, population_stability
from validators.policy import choose_policy
from validators.rows import Message
from validators.statistics import length_histogram

BOUNDS = SkillBounds(min_tokens=20, max_tokens=100, tolerance=0.1, min_diversity=0.8)
HISTOGRAM = st.lists(st.integers(0, 1000), min_size=5, max_size=5)


def rows(*parts):
    """Parts of (rows, tokens, skill, answer); no answer is another one in every row."""
    totals, skills, answers = [], [], []
    for count, tokens, skill, answer in parts:
        totals += [tokens] * count
        skills += [skill] * count
        answers += [len(answers) + place if answer is None else answer for place in range(count)]
    frame = {"total": pl.Series(totals, dtype=pl.Int32), "skill": pl.Series(skills, dtype=pl.String)}
    return pl.DataFrame({**frame, "answer": pl.Series(answers, dtype=pl.Int64)})


def find(*parts, past=None, **thresholds):
    policy = choose_policy(Validation(**{"skills": {"syllo": BOUNDS}, **thresholds}), 512, "chat_sft_v1", None)
    return [(finding.rule, finding.detail) for finding in find_imbalance(rows(*parts), policy, past)]


@pytest.mark.parametrize("tokens", [20, 60, 100])
def test_lengths_within_the_bounds_pass(tokens):
    assert find((200, tokens, "syllo", None)) == []


@pytest.mark.parametrize("tokens", [19, 101])
def test_a_share_over_the_tolerance_outside_the_bounds_is_found(tokens):
    assert find((20, tokens, "syllo", None), (180, 60, "syllo", None)) == []
    ((rule, detail),) = find((21, tokens, "syllo", None), (179, 60, "syllo", None))
    assert rule is Rule.LENGTH_BOUNDS
    assert detail == (
        "10.5% of the rows of skill 'syllo' are not of 20 to 100 tokens, over the limit of 10.0% (validation.skills)"
    )


def test_answers_of_a_skill_that_repeat_are_found():
    assert find((41, 60, "syllo", -1), (159, 60, "syllo", None)) == []
    ((rule, detail),) = find((42, 60, "syllo", -1), (158, 60, "syllo", None))
    assert rule is Rule.ANSWER_DIVERSITY
    assert "79.5% of the answers of skill 'syllo' are distinct, under the limit of 80.0%" in detail


def test_bounds_are_of_one_skill_and_of_no_other():
    assert find((200, 5, "binary", None), (200, 60, "syllo", None), (200, 5000, None, None)) == []


def test_a_skill_without_a_least_diversity_may_repeat_its_answers():
    bounds = SkillBounds(min_tokens=5, max_tokens=512, tolerance=0.5)
    found = find((60, 60, "binary", -1), (90, 60, "binary", None), skills={"binary": bounds})
    assert found == []


def test_shares_of_few_rows_say_nothing():
    few = MIN_ROWS - 1
    assert find((few, 5, "syllo", -1), past=[0] * 39 + [500]) == []
    assert {rule for rule, _ in find((few + 1, 5, "syllo", -1), past=[0] * 39 + [500])} == {
        Rule.LENGTH_BOUNDS,
        Rule.ANSWER_DIVERSITY,
        Rule.ANSWER_BALANCE,
        Rule.DRIFT,
    }


def test_an_answer_in_more_than_half_of_the_rows_is_found():
    assert find((100, 60, None, -1), (100, 60, None, None)) == []
    ((rule, detail),) = find((101, 60, None, -1), (99, 60, None, None))
    assert rule is Rule.ANSWER_BALANCE
    assert "50.5% of 200 rows have the same answer" in detail
    assert find((101, 60, None, -1), (99, 60, None, None), max_answer_share=0.6) == []


def test_lengths_unlike_the_generators_past_are_drift():
    past = length_histogram(rows((1000, 60, None, None))["total"])

    assert find((200, 60, None, None), past=past) == []
    ((rule, detail),) = find((200, 200, None, None), past=past)
    assert rule is Rule.DRIFT
    assert "over the limit of 0.25 (validation.max_drift)" in detail
    assert find((200, 200, None, None), past=None) == []
    assert find((200, 200, None, None), past=[count // 20 for count in past]) == []


@pytest.mark.parametrize(
    ("expected", "observed", "index"),
    [
        ([100, 200, 700], [100, 200, 700], 0.0),
        ([10, 20, 70], [1000, 2000, 7000], 0.000175),
        ([200_000, 300_000, 500_000], [250_000, 250_000, 500_000], 0.020273),
        ([50, 50], [25, 75], 0.268679),
        ([0, 100], [100, 0], 10.5016),
        ([0, 0, 100], [0, 0, 50], 0.0),
    ],
)
def test_the_population_stability_index_is_the_textbooks(expected, observed, index):
    assert population_stability(expected, observed) == pytest.approx(index, rel=1e-3, abs=1e-6)


@given(one=HISTOGRAM, other=HISTOGRAM)
def test_the_index_is_finite_symmetric_and_never_negative(one, other):
    index = population_stability(one, other)

    assert math.isfinite(index)
    assert index >= 0
    assert index == pytest.approx(population_stability(other, one))
    assert population_stability(one, one) == 0


@pytest.mark.parametrize(
    ("asked", "answered", "found"),
    [
        (220, 11, False),
        (221, 11, True),
        (100_000, 10, False),
        (1, 2000, False),
        (1, 2001, True),
        (40, 2000, False),
        (41, 2050, False),
        (41, 2051, True),
    ],
)
def test_a_prompt_or_an_answer_many_times_as_long_as_the_other_is_found(asked, answered, found):
    turns = [Message("user", "a" * asked), Message("assistant", "b" * answered)]
    finding = find_imbalanced_turns(turns, Validation())

    assert (finding is not None) is found
    assert finding is None or finding.detail == f"{asked:,} characters asked, {answered:,} answered"


def test_all_turns_count_the_system_turn_as_asked():
    turns = [Message("system", "a" * 150), Message("user", "b" * 71), Message("assistant", "c" * 11)]

    assert find_imbalanced_turns(turns, Validation()) is not None
    assert find_imbalanced_turns([*turns, Message("user", "d"), Message("assistant", "e")], Validation()) is None
