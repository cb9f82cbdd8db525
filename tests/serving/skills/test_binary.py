"""The binary skill: what is reserved, what is emitted, what counts as right."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.skills import binary
from serving.skills.binary import Problem

ALL = list(binary.problems(2))
any_problem = st.sampled_from(ALL)


def test_levels_one_and_two_hold_610_problems_of_which_a_fifth_is_reserved() -> None:
    assert len(ALL) == len(set(ALL)) == 610
    assert 100 <= sum(problem.held_out for problem in ALL) <= 140


def test_a_reserved_problem_is_reserved_at_every_level() -> None:
    level_one = {problem.key: problem.held_out for problem in binary.problems(1)}
    assert level_one.items() <= {problem.key: problem.held_out for problem in ALL}.items()


@given(seed=st.integers(0, 10_000), count=st.integers(1, 700), level=st.sampled_from([1, 2]))
def test_no_reserved_problem_is_ever_emitted_for_training(seed: int, count: int, level: int) -> None:
    rows = list(binary.training_rows(level, count, random.Random(seed)))
    keys = {row["metadata"]["problem_key"] for row in rows}  # type: ignore[index]
    assert len(rows) == count
    assert not any(binary.is_held_out(key) for key in keys)


def test_a_reserved_problem_cannot_be_made_into_a_training_row() -> None:
    reserved = next(problem for problem in ALL if problem.held_out)
    with pytest.raises(ValueError, match="reserved for evaluation"):
        binary.training_row(reserved, 0, 2)


def test_every_trainable_problem_comes_once_before_any_comes_again() -> None:
    trainable = sum(not problem.held_out for problem in ALL)
    rows = binary.training_rows(2, trainable, random.Random(3))
    assert len({row["metadata"]["problem_key"] for row in rows}) == trainable  # type: ignore[index]


@given(any_problem)
def test_the_worked_answer_is_correct_and_parses_to_the_result(problem: Problem) -> None:
    answer = binary.worked_answer(problem)
    assert binary.is_correct(problem, answer)
    assert binary.parse_final(answer) == binary.to_digits(problem.result)


@given(any_problem)
def test_the_columns_of_the_worked_answer_restate_the_operands(problem: Problem) -> None:
    columns, _ = binary.worked_answer(problem).split(" = ")
    digits = [binary.DIGITS.index(char) for char in columns]
    left, right, result = (sum(bit << place for place, bit in enumerate(digits[part::3])) for part in range(3))
    assert (left, right, result) == (problem.left, problem.right, problem.result)


@pytest.mark.parametrize("answer", ["", "①", "= ", "①⓪① = ", "= ①① and so on", "= 11", "⓪⓪⓪ = ①①⓪", "①①⓪ = ⓪①①"])
def test_an_answer_without_the_exact_result_at_its_end_is_wrong(answer: str) -> None:
    assert not binary.is_correct(Problem("add", 1, 2), answer)


def test_only_the_final_result_counts() -> None:
    assert binary.is_correct(Problem("add", 1, 2), "nonsense = ⓪ = ①①")


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"level 9 is unknown; known levels: \[1, 2\]"):
        list(binary.problems(9))


@given(any_problem, st.integers(0, 2), st.sampled_from(["{}", "Please answer: {} Thank you."]))
def test_a_problem_is_found_in_the_text_that_asks_it(problem: Problem, phrasing: int, frame: str) -> None:
    text = frame.format(binary.question(problem, phrasing))
    assert set(binary.find_problems(text)) == {problem}
    assert binary.asks_held_out(text) == problem.held_out


def test_other_text_asks_no_problem() -> None:
    assert not list(binary.find_problems("what is 2 + 2, and what is ①⓪?"))


@given(st.lists(any_problem, min_size=2, max_size=5), st.sampled_from([" ", "\n", ", then "]))
def test_one_reserved_question_among_others_is_seen(asked: list[Problem], between: str) -> None:
    text = between.join(binary.question(problem) for problem in asked)
    assert set(binary.find_problems(text)) >= set(asked)
    assert binary.asks_held_out(text) or not any(problem.held_out for problem in asked)


def test_keys_of_other_skills_are_not_reserved() -> None:
    assert not any(binary.is_held_out(f"syllo:{number}") for number in range(100))
