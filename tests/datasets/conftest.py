"""A workspace, files that are dropped into it, and ticks of the inbox without waiting between the looks."""

from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from gpu_assets.datasets.intake import DEFAULT_LIMITS, IntakeReport, Limits, take_in
from gpu_assets.datasets.records import sidecar_sha256, write_refusal
from resources.workspace import Workspace

Tick = Callable[..., IntakeReport]
ROWS = '{"text": "x"}\n'


def drop(workspace: Workspace, name: str, content: str = ROWS, sidecar: str | None = None) -> Path:
    path = workspace.inbox / name
    path.write_text(content)
    if sidecar is not None:
        path.with_name(path.name + ".meta.json").write_text(sidecar)
    return path


def left_in_inbox(workspace: Workspace) -> list[str]:
    return sorted(path.name for path in workspace.inbox.rglob("*") if not path.is_dir())


def refuse(workspace: Workspace, key: str) -> None:
    folder = workspace.datasets / key
    write_refusal(folder, "no such schema", {}, sidecar_sha256(folder))


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
