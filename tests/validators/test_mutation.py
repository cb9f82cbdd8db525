"""Thousands of rows, known numbers of each defect: all are found, and nothing else is called one."""

from collections import Counter

import pytest

from tests.validators.file_defects import file_cases
from tests.validators.mutation import check_case, make_renderer, mutate, score, validate
from validators import Rule

FILE_CASES = list(file_cases())


@pytest.fixture(scope="module")
def mutated():
    return mutate(make_renderer())


@pytest.fixture(scope="module")
def scores(mutated, tmp_path_factory):
    return score(make_renderer(), mutated, tmp_path_factory.mktemp("mutation"))


def test_every_defect_of_a_row_is_found_and_nothing_else_is_called_one(mutated, scores):
    assert len(mutated.lines) == 5_000
    assert {rule: one.precision for rule, one in scores.items()} == dict.fromkeys(scores, 1.0)
    recalls = {rule: one.recall for rule, one in scores.items()}
    assert recalls.pop(Rule.NEAR_DUPLICATE) >= 0.95
    assert recalls == dict.fromkeys(recalls, 1.0)


def test_with_the_severities_that_are_shipped_the_counts_are_those_planted(mutated, scores, tmp_path):
    report = validate(make_renderer(), mutated, tmp_path, {})
    counts = {problem.rule: problem.count for problem in report.problems}
    planted = Counter(mutated.planted.values())

    near = counts.pop(Rule.NEAR_DUPLICATE)
    assert near == scores[Rule.NEAR_DUPLICATE].both
    assert counts == {rule: count for rule, count in planted.items() if rule is not Rule.NEAR_DUPLICATE}
    assert report.accepted + report.rejected + report.blank_lines == report.lines == len(mutated.lines)
    assert sum(report.rejected_by_rule().values()) == report.rejected


@pytest.mark.parametrize("case", FILE_CASES, ids=lambda case: f"{case.rule}: {case.what}")
def test_a_defect_of_a_file_is_found_and_its_nearest_neighbour_passes(tmp_path, case):
    assert check_case(make_renderer(), case, tmp_path) == (True, False)


def test_every_rule_is_planted(scores):
    assert scores.keys() | {case.rule for case in FILE_CASES} == set(Rule)
