"""An instance on disk, as the platform has one, and a home that was trained in."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.lineage.world import World, build_world


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> World:
    """Read-only by convention."""
    return build_world(tmp_path_factory.mktemp("world") / "home", tiny_folder)
