"""Fixtures of the clients' tests."""

from collections.abc import Iterator

import pytest

from tests.resources.services.support import Scripted, running


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with running() as server:
        yield server


@pytest.fixture
def slept() -> list[float]:
    """Seconds that a client would have waited."""
    return []
