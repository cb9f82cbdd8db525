"""A workspace and ticks of the inbox without waiting: the looks come one after the other."""

from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from gpu_assets.datasets.intake import DEFAULT_LIMITS, IntakeReport, Limits, take_in
from resources.workspace import Workspace

Tick = Callable[..., IntakeReport]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home").create()


@pytest.fixture
def tick(workspace: Workspace) -> Tick:
    """One tick, an hour from now so that no file is too young; `between` runs between the two looks."""

    def run(
        between: Callable[[], None] = lambda: None,
        validated: Collection[str] = (),
        open_keys: Collection[str] = (),
        limits: Limits = DEFAULT_LIMITS,
        now: float = 4e9,
    ) -> IntakeReport:
        return take_in(
            workspace,
            validated=validated,
            open_keys=open_keys,
            limits=limits,
            pause=lambda _: between(),
            now=lambda: now,
        )

    return run
