"""Room on the disk, with the real disk under the test's folder."""

import shutil
from pathlib import Path

import pytest

from gpu_assets.errors import DiskFull
from gpu_assets.training.disk import GB, StateSize, require_free


def test_what_fits_beside_the_floor_is_let_through(tmp_path: Path) -> None:
    require_free(tmp_path, 1, 0, "a byte")


def test_what_does_not_fit_is_refused_with_the_figures_and_what_to_do(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DiskFull) as refused:
        require_free(tmp_path, free, 10 * GB, "this training")
    sentence = str(refused.value)
    assert sentence.startswith(f"{tmp_path} is on a disk with ")
    assert "this training takes " in sentence
    assert "10 GB must be left (storage.min_free_gb): free " in sentence
    assert "GPU_ASSETS_HOME" in sentence
    assert refused.value.wanted == free


def test_a_resume_point_holds_weights_and_states_and_the_outcome_the_weights_twice() -> None:
    size = StateSize(weights=4, optimizer=8)
    assert (size.resume_point, size.outcome) == (12, 16)
