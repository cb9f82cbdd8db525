"""What holds training, and what lets it go on."""

from datetime import UTC, datetime, timedelta

import pytest

from gpu_assets.training.control import Action, Asked, Canceled, hold

POOL = "gpu-4090"
NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
RUN = Canceled("0123456789", created_at=NOW - timedelta(hours=1), ended_at=NOW, reason="too hot")


@pytest.mark.parametrize("limit", [None, 1, 4])
def test_with_a_slot_in_the_pool_and_no_canceled_run_nothing_holds(limit: int | None) -> None:
    assert hold(POOL, limit, None, None) is None
    assert hold(POOL, limit, None, Asked("pause", NOW)) is None, "somebody raised the limit by hand"


def test_a_pool_without_slots_is_a_pause_whoever_made_it() -> None:
    by_hand = hold(POOL, 0, None, None)
    assert by_hand is not None and by_hand.state == "paused"
    assert by_hand.sentence.startswith("training is paused: the pool gpu-4090 has a limit of 0")
    asked = hold(POOL, 0, None, Asked("pause", NOW, "holidays"))
    assert asked is not None
    assert asked.sentence.startswith("training is paused since 2030-01-01T12:00:00+00:00 (holidays): the pool")
    assert "`gpu-assets control resume`" in asked.sentence


def test_a_pause_binds_whatever_comes() -> None:
    found = hold(POOL, 0, RUN, None)
    assert found is not None and found.binds(NOW + timedelta(days=1))


def test_a_run_that_was_ended_by_request_holds_what_waited_then_and_lets_through_what_comes_later() -> None:
    found = hold(POOL, 1, RUN, Asked("stop", NOW - timedelta(seconds=3)))
    assert found is not None and found.state == "stopped"
    assert "run 01234567 was ended by request at 2030-01-01T12:00:00+00:00 (too hot)" in found.sentence
    assert found.binds(None)
    assert found.binds(NOW - timedelta(days=1))
    assert not found.binds(NOW + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("action", "minutes", "is_held"),
    [
        ("resume", 1, False),
        ("skip", -1, False),
        ("resume", -61, True),
        ("stop", 1, True),
        ("pause", -1, True),
    ],
)
def test_a_resume_or_a_skip_after_the_run_began_lets_training_go_on(
    action: Action, minutes: int, is_held: bool
) -> None:
    asked = Asked(action, NOW + timedelta(minutes=minutes))
    assert (hold(POOL, 1, RUN, asked) is not None) is is_held
