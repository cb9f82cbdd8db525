"""What counts as gone wrong, and how training goes on from it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.training.guards import SETTLED, WINDOW, Divergence, judge, rate_factor, roll_back

STEADY = [0.5] * WINDOW


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_has_gone_wrong_at_once(loss: float) -> None:
    found = judge(1, loss, 1.0, [], 4.0)
    assert found is not None and (found.step, found.cause) == (1, "loss")


def test_a_gradient_that_is_not_finite_has_gone_wrong_though_the_loss_is() -> None:
    found = judge(3, 0.5, math.inf, STEADY, 4.0)
    assert found is not None and found.cause == "gradient"
    assert str(found) == "the norm of the gradient is inf at step 3"


@pytest.mark.parametrize(
    ("loss", "is_spike"),
    [(2.0, False), (2.01, True), (1.99, False)],
)
def test_a_loss_over_so_many_times_the_median_is_a_spike(loss: float, is_spike: bool) -> None:
    found = judge(60, loss, 1.0, STEADY, 4.0)
    assert (found is not None) is is_spike
    if found is not None:
        assert str(found) == "the loss is 2.01, 4.0 times the usual 0.5, at step 60"


def test_before_the_losses_have_settled_nothing_finite_is_a_spike() -> None:
    assert judge(SETTLED, 100.0, 1.0, [0.5] * (SETTLED - 1), 4.0) is None
    assert judge(SETTLED + 1, 100.0, 1.0, [0.5] * SETTLED, 4.0) is not None


def test_where_losses_are_nearly_nought_a_multiple_of_them_is_no_spike() -> None:
    assert judge(60, 0.9, 1.0, [0.01] * WINDOW, 4.0) is None


def test_a_hard_batch_that_comes_again_is_no_spike() -> None:
    assert judge(60, 3.1, 1.0, [*[0.1] * (WINDOW - 1), 3.0], 4.0) is None


def test_only_the_last_losses_say_what_is_usual() -> None:
    assert judge(200, 3.0, 1.0, [9.0] * 100 + STEADY, 4.0) is not None


@given(st.lists(st.floats(0.01, 12), min_size=SETTLED, max_size=200), st.floats(1.1, 10))
def test_no_loss_that_was_seen_in_the_window_is_a_spike(losses: list[float], rise: float) -> None:
    assert judge(len(losses) + 1, max(losses[-WINDOW:]), 1.0, losses, rise) is None


def test_a_rollback_halves_the_rate_and_names_the_value_where_json_can() -> None:
    first = roll_back(Divergence(7, "spike", 9.5, 0.5), 4, [])
    assert first.to_json() == {"step": 7, "to_step": 4, "cause": "spike", "value": 9.5, "rate_factor": 0.5}
    assert roll_back(Divergence(7, "loss", math.nan), 4, []).value is None
    assert rate_factor([]) == 1.0
    assert rate_factor([first.to_json()]) == 0.5
