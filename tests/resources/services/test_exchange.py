"""How long is waited: bounds of the backoff, and what Retry-After means."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.errors import ServiceUnavailable
from resources.services.exchange import (
    BACKOFF_S,
    JITTER,
    MAX_BACKOFF_S,
    Retryable,
    idempotency,
    retry_after_s,
    wait_s,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def after_attempt(number: int, retry_after: float | None = None) -> tenacity.RetryCallState:
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = number
    failed = Retryable(ServiceUnavailable("no"), retry_after)
    state.set_exception((Retryable, failed, None))
    return state


@given(st.integers(1, 5000))
def test_the_backoff_doubles_up_to_its_limit_and_jitters_about_it(attempt: int) -> None:
    expected = min(BACKOFF_S * 2.0 ** min(attempt - 1, 60), MAX_BACKOFF_S)
    waited = wait_s(after_attempt(attempt))
    assert expected * (1 - JITTER) <= waited <= expected * (1 + JITTER)


def test_clients_that_fail_together_do_not_return_together_even_at_the_limit() -> None:
    assert len({wait_s(after_attempt(50)) for _ in range(100)}) > 50


@given(st.integers(1, 100), st.floats(0, 60))
def test_what_the_service_asks_for_takes_the_place_of_the_backoff(attempt: int, seconds: float) -> None:
    assert wait_s(after_attempt(attempt, seconds)) == seconds


@given(st.integers(0, 10**6))
def test_seconds_and_a_date_mean_the_same(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_s(httpx.Headers({"Retry-After": str(seconds)}), NOW) == seconds
    assert retry_after_s(httpx.Headers({"Retry-After": date}), NOW) == seconds


def test_a_date_is_compared_with_the_clock_of_the_server_that_sent_it() -> None:
    headers = {name: format_datetime(NOW + timedelta(hours=h)) for name, h in (("Retry-After", 5), ("Date", 5))}
    assert retry_after_s(httpx.Headers(headers), NOW) == 0


def test_a_date_that_is_past_means_now() -> None:
    assert retry_after_s(httpx.Headers({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), NOW) == 0


@pytest.mark.parametrize("value", ["", "soon", "-1", "1.5", "٣", "Wed, 99 Oct 2015", "1e9"])
def test_what_is_neither_seconds_nor_a_date_leaves_the_backoff(value: str) -> None:
    assert retry_after_s(httpx.Headers({b"Retry-After": value.encode()}), NOW) is None


@given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [+-]?\d*[A-Z]*"))
def test_no_header_is_a_failure_or_a_wait_into_the_past(value: str) -> None:
    headers = httpx.Headers({b"Retry-After": value.encode(), b"Date": value.encode()})
    assert (retry_after_s(headers, NOW) or 0) >= 0


def test_a_key_is_sent_as_it_was_given_or_made() -> None:
    assert idempotency(None) == {}
    assert idempotency("x") == {"Idempotency-Key": "x"}
    assert idempotency(True) != idempotency(True)
