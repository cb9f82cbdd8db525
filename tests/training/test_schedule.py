"""The learning rate: a pure function of the step."""

import pytest

from gpu_assets.settings import Hyperparams
from gpu_assets.training.schedule import learning_rate

PARAMS = Hyperparams(learning_rate=1e-3, warmup_steps=10, decay_share=0.25)


@pytest.mark.parametrize(
    ("step", "fresh", "expected"),
    [(0, True, 1e-4), (9, True, 1e-3), (0, False, 1e-3), (50, True, 1e-3), (74, False, 1e-3), (99, True, 1e-4)],
)
def test_warm_up_is_for_a_new_optimizer_and_every_run_ends_at_a_tenth(step: int, fresh: bool, expected: float) -> None:
    assert learning_rate(step, 100, PARAMS, fresh_optimizer=fresh) == pytest.approx(expected)


def test_the_rate_never_rises_after_the_warm_up() -> None:
    rates = [learning_rate(step, 100, PARAMS, fresh_optimizer=False) for step in range(100)]
    assert rates == sorted(rates, reverse=True)


def test_without_a_decay_share_the_rate_stays_at_its_peak() -> None:
    flat = PARAMS.model_copy(update={"decay_share": 0.0})
    assert learning_rate(99, 100, flat, fresh_optimizer=False) == 1e-3
