"""Evaluation sets: frozen, right by construction, and never seen in training."""

import json
import random
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.errors import ArtifactInvalid, EvaluationInvalid
from gpu_assets.evaluation.records import EvaluationSet
from gpu_assets.evaluation.sets import (
    build_evaluation_set,
    check_golden_answers,
    freeze,
    problem_of,
    read_evaluation_set,
)
from resources.artifacts import sha256_json
from resources.workspace import Workspace
from serving.skills import binary

LEVELS = pytest.mark.parametrize("level", sorted(binary.LEVELS))


@LEVELS
def test_the_golden_answers_score_one(level: int) -> None:
    assert check_golden_answers(build_evaluation_set(level)) == 1.0


@LEVELS
def test_a_set_is_the_same_each_time_it_is_built(level: int) -> None:
    assert build_evaluation_set(level) == build_evaluation_set(level)


def test_the_shipped_sets_are_these_and_no_others() -> None:
    """A changed hash makes every score so far incomparable: change these only on purpose."""
    names = {build_evaluation_set(level).name for level in binary.LEVELS}
    assert names == {"binary-level1-f1c171c1", "binary-level2-2c786828"}


@LEVELS
def test_all_problems_are_either_held_out_or_emitted_for_training(level: int) -> None:
    held_out = build_evaluation_set(level).problem_keys
    emitted = emitted_keys(level, 4_000, seed=0)
    assert not held_out & emitted
    assert held_out | emitted == {problem.key for problem in binary.problems(level)}


@given(st.sampled_from(sorted(binary.LEVELS)), st.integers(0, 500), st.integers(0, 2**32))
def test_no_level_count_or_seed_emits_a_question_of_any_set(level: int, count: int, seed: int) -> None:
    held_out = frozenset().union(*(build_evaluation_set(known).problem_keys for known in binary.LEVELS))
    assert not held_out & emitted_keys(level, count, seed)


def test_no_question_is_asked_twice_and_none_in_the_words_of_a_training_row() -> None:
    items = build_evaluation_set(2).items
    questions = {item.question for item in items}
    assert len(questions) == len(items)
    rows = binary.training_rows(2, 4_000, random.Random(1))
    assert not questions & {row["messages"][0]["content"] for row in rows}  # type: ignore[index]


def test_a_higher_level_holds_the_lower_ones_questions() -> None:
    assert build_evaluation_set(1).problem_keys < build_evaluation_set(2).problem_keys


def test_a_level_that_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match=r"binary level 9 is unknown; known levels: \[1, 2\]"):
        build_evaluation_set(9)


def test_a_frozen_set_reads_back_as_it_was(workspace: Workspace) -> None:
    built = build_evaluation_set(1)
    assert read_evaluation_set(freeze(built, workspace)) == built


def test_freezing_twice_leaves_the_first_files_as_they_are(workspace: Workspace) -> None:
    built = build_evaluation_set(1)
    folder = freeze(built, workspace)
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert freeze(built, workspace) == folder
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before


@pytest.mark.parametrize("change", ["question", "order", "missing"])
def test_items_that_were_changed_are_refused(change: str, workspace: Workspace) -> None:
    folder = freeze(build_evaluation_set(1), workspace)
    path = folder / "items.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    if change == "question":
        lines[0] = json.dumps(json.loads(lines[0]) | {"question": "easier"})
    elif change == "order":
        lines.reverse()
    else:
        lines.pop()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ArtifactInvalid, match=r"items.jsonl was changed: .* the manifest says .* Delete the folder"):
        read_evaluation_set(folder)


def test_a_folder_without_a_manifest_is_no_set(workspace: Workspace) -> None:
    folder = freeze(build_evaluation_set(1), workspace)
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactInvalid, match="has no manifest.json"):
        read_evaluation_set(folder)


def test_a_golden_answer_that_does_not_score_is_named_and_nothing_is_frozen(workspace: Workspace) -> None:
    built = build_evaluation_set(1)
    spoiled = (replace(built.items[0], golden_answer="I do not know"), *built.items[1:])
    wrong = EvaluationSet(built.skill, built.level, spoiled, sha256_json([asdict(item) for item in spoiled]))
    with pytest.raises(EvaluationInvalid, match=f"golden answer of {built.items[0].problem_key}, 'I do not know'"):
        freeze(wrong, workspace)
    assert list(workspace.evaluation.iterdir()) == []


def test_a_set_without_items_is_refused(workspace: Workspace) -> None:
    with pytest.raises(EvaluationInvalid, match="has no items"):
        freeze(EvaluationSet("binary", 1, (), sha256_json([])), workspace)


def test_an_item_names_its_problem() -> None:
    for item in build_evaluation_set(2).items:
        problem = problem_of(item)
        assert problem.key == item.problem_key
        assert problem.held_out
        assert item.question == binary.question(problem)


def emitted_keys(level: int, count: int, seed: int) -> set[str]:
    rows = binary.training_rows(level, count, random.Random(seed))
    return {row["metadata"]["problem_key"] for row in rows}  # type: ignore[index]
