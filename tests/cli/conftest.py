"""Fixtures of the command line's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.stand_ins import StandIns


@pytest.fixture
def stand_ins(tmp_path: Path) -> Iterator[StandIns]:
    folder = tmp_path / "stand-ins"
    folder.mkdir()
    made = StandIns(folder)
    yield made
    made.end_all()
