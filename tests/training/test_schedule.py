"""The learning rate: a pure function of the step."""

import pytest

from gpu_assets.settings import Hyperparams
from gpu_assets.training.schedule import learning_rate

PARAMS = Hyperparams(learning_rate=1e-3, warmup_steps=10, decay_share=0.25)


@pytest.mark.parametrize(
    ("step", "before", "expected"),
    [(0, 0, 1e-4), (9, 0, 1e-3), (0, 10, 1e-3), (0, 4, 5e-4), (50, 0, 1e-3), (74, 100, 1e-3), (99, 0, 1e-4)],
)
def test_warm_up_is_for_a_new_optimizer_and_every_run_ends_at_a_tenth(step: int, before: int, expected: float) -> None:
    assert learning_rate(step, 100, PARAMS, optimizer_steps=before) == pytest.approx(expected)


def test_runs_that_are_shorter_than_the_warm_up_go_on_with_it_and_end_in_their_fall() -> None:
    rates = [[learning_rate(step, 4, PARAMS, optimizer_steps=before) for step in range(4)] for before in (0, 4, 8)]
    assert rates == [
        pytest.approx([1e-4, 2e-4, 3e-4, 4e-4]),
        pytest.approx([5e-4, 6e-4, 7e-4, 8e-4]),
        pytest.approx([9e-4, 1e-3, 1e-3, 1e-3]),
    ]
    long_fall = PARAMS.model_copy(update={"decay_share": 1.0})
    falling = [learning_rate(step, 10, long_fall, optimizer_steps=0) for step in range(10)]
    assert falling == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 5e-4, 4e-4, 3e-4, 2e-4, 1e-4])


def test_a_run_without_warm_up_begins_at_the_peak() -> None:
    assert learning_rate(0, 100, PARAMS.model_copy(update={"warmup_steps": 0}), optimizer_steps=0) == 1e-3


def test_the_rate_never_rises_after_the_warm_up() -> None:
    rates = [learning_rate(step, 100, PARAMS, optimizer_steps=10) for step in range(100)]
    assert rates == sorted(rates, reverse=True)


def test_without_a_decay_share_the_rate_stays_at_its_peak() -> None:
    flat = PARAMS.model_copy(update={"decay_share": 0.0})
    assert learning_rate(99, 100, flat, optimizer_steps=10) == 1e-3
