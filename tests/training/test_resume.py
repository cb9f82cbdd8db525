"""Resume points: which stay, which is gone on from, and what an interrupt may leave."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from gpu_assets.training.resume import (
    ROLLBACKS_FILE,
    SPLITS_FILE,
    load_resume_point,
    note_rollbacks,
    noted_rollbacks,
    noted_splits,
    resume_points,
)
from tests.training.conftest import leave_resume_point

Save = Callable[[int], None]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Leaves a resume point at a step; every third one is on the schedule."""

    return partial(leave_resume_point, tmp_path, every=3)


def names(work: Path) -> list[str]:
    return [folder.name for folder in resume_points(work)]


def load(work: Path, every: int = 1) -> tuple[int | None, list[str]]:
    loaded: list[str] = []
    step = load_resume_point(work, lambda folder: loaded.append((folder / "state").read_text()), loaded.append, every)
    return step, loaded


def test_the_newest_and_the_one_before_stay(tmp_path: Path, save: Save) -> None:
    for step in (3, 6, 9):
        save(step)
    assert names(tmp_path) == ["resume-9", "resume-6"]
    assert load(tmp_path) == (9, ["9"])


def test_what_an_interrupt_leaves_does_not_push_out_the_scheduled_one_before_it(tmp_path: Path, save: Save) -> None:
    for step in (3, 6, 7, 8):
        save(step)
    assert names(tmp_path) == ["resume-8", "resume-6"]


def test_the_next_scheduled_one_pushes_out_the_scheduled_one_and_not_the_newest(tmp_path: Path, save: Save) -> None:
    for step in (3, 6, 7, 9):
        save(step)
    assert names(tmp_path) == ["resume-9", "resume-7"]


def test_a_rollback_goes_to_the_scheduled_one_and_forgets_what_came_after(tmp_path: Path, save: Save) -> None:
    for step in (3, 6, 7):
        save(step)
    assert load(tmp_path, every=3) == (6, ["6"])
    assert names(tmp_path) == ["resume-6"]


def test_without_a_scheduled_one_a_rollback_goes_to_the_start(tmp_path: Path, save: Save) -> None:
    save(2)
    assert load(tmp_path, every=3) == (None, [])
    assert names(tmp_path) == []


def test_a_removal_that_was_cut_short_leaves_no_resume_point_and_is_cleared_away(tmp_path: Path, save: Save) -> None:
    for step in (3, 6):
        save(step)
    (tmp_path / "resume-3" / "manifest.json").unlink()
    assert names(tmp_path) == ["resume-6"]
    save(9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resume-6", "resume-9"]


def test_a_rollback_counts_where_training_went_back_to_and_nowhere_else(tmp_path: Path) -> None:
    assert noted_rollbacks(tmp_path, 0, print) == []
    rollback = {"step": 7, "to_step": 6, "cause": "spike", "value": 9.0, "rate_factor": 0.5}
    note_rollbacks(tmp_path, [rollback])
    assert noted_rollbacks(tmp_path, 6, print) == [rollback]
    assert noted_rollbacks(tmp_path, 3, print) == []


@pytest.mark.parametrize("content", ["", '{"rollbacks": [{"step": 7, "to_', "[]", "{}", '{"rollbacks": 1}', "\ufeff"])
def test_a_torn_note_is_said_and_gone_on_without(tmp_path: Path, content: str) -> None:
    said: list[str] = []
    for name in (ROLLBACKS_FILE, SPLITS_FILE):
        (tmp_path / name).write_text(content)
    assert noted_rollbacks(tmp_path, 6, said.append) == []
    assert noted_splits(tmp_path, said.append) == 0
    assert [sentence.split(" cannot be read")[0] for sentence in said] == [
        str(tmp_path / ROLLBACKS_FILE),
        str(tmp_path / SPLITS_FILE),
    ]


def test_what_else_lies_in_a_work_folder_is_no_resume_point_and_is_left_alone(tmp_path: Path, save: Save) -> None:
    save(3)
    for name in ("resume-old", "resume-", "resume-3 copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "resume-4").write_text("a file")
    save(6)
    assert names(tmp_path) == ["resume-6", "resume-3"]
    assert load(tmp_path) == (6, ["6"])
    assert {"resume-old", "resume-", "resume-3 copy", "resume-4"} < {path.name for path in tmp_path.iterdir()}


def test_a_resume_point_of_another_format_is_said_and_the_one_before_is_gone_on_from(
    tmp_path: Path, save: Save
) -> None:
    for step in (3, 6):
        save(step)
    manifest = tmp_path / "resume-6" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 1}))
    step, said = load(tmp_path)
    assert (step, said[1:]) == (3, ["3"])
    assert said[0].startswith("the resume point resume-6 cannot be used: ") and "is of format 1, wanted" in said[0]
    assert names(tmp_path) == ["resume-3"]
