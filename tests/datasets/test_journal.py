"""A crash at every step of every kind of intake: no file is lost, doubled, or taken in by half."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_assets.datasets.intake import take_in
from gpu_assets.datasets.journal import recover
from gpu_assets.datasets.records import dataset_keys, list_datasets, sidecar_sha256, write_refusal
from resources.workspace import Workspace

STEPS = ("mkdir", "rename", "replace", "unlink", "rmdir")
CONTENT = "data " * 10


class Crash(BaseException):
    """Stands for the end of the process: nothing catches it."""


def tick(workspace: Workspace) -> None:
    take_in(workspace, validated=(), open_keys=(), pause=lambda _: None, now=lambda: 4e9)


def crash_before(monkeypatch: pytest.MonkeyPatch, step: int, run: Callable[[], None]) -> bool:
    """Run until the step-th change to the file system's names; whether there was such a step."""
    done = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done == step:
                raise Crash
            done += 1
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            run()
        except Crash:
            return True
    return False


def tree(home: Path) -> dict[str, str]:
    """Every file below the home with its content, times and process ids left out."""
    found = {}
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and path.suffix not in (".lock", ".tmp"):
            found[name] = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "TIME", path.read_text())
        elif path.is_dir() and not any(path.iterdir()):
            found[name] = "empty folder"
    return found


def copies(home: Path, content: str) -> int:
    return sum(1 for path in home.rglob("*") if path.is_file() and path.read_text() == content)


def drop(workspace: Workspace, name: str, content: str, sidecar: str | None = None) -> None:
    (workspace.inbox / name).write_text(content)
    if sidecar is not None:
        (workspace.inbox / f"{name}.meta.json").write_text(sidecar)


def take_refused(workspace: Workspace) -> None:
    """A dataset in place whose gate refused it."""
    drop(workspace, "a.jsonl", "known", "old sidecar")
    tick(workspace)
    (key,) = dataset_keys(workspace)
    write_refusal(workspace.datasets / key, "no", {}, sidecar_sha256(workspace.datasets / key))


def given_a_file(workspace: Workspace) -> None:
    drop(workspace, "a.jsonl", CONTENT, "its sidecar")


def given_a_refused_file(workspace: Workspace) -> None:
    drop(workspace, "a.csv", CONTENT, "its sidecar")


def given_a_link(workspace: Workspace) -> None:
    (workspace.inbox / "a.jsonl").symlink_to("/etc/hostname")


def given_a_folder(workspace: Workspace) -> None:
    (workspace.inbox / "folder").mkdir()
    (workspace.inbox / "folder" / "inner.jsonl").write_text(CONTENT)


def given_a_second_refusal(workspace: Workspace) -> None:
    given_a_refused_file(workspace)
    tick(workspace)
    drop(workspace, "a.csv", "again")


def given_a_duplicate(workspace: Workspace) -> None:
    take_refused(workspace)
    drop(workspace, "b.jsonl", "known")


def given_a_duplicate_with_a_new_sidecar(workspace: Workspace) -> None:
    take_refused(workspace)
    drop(workspace, "b.jsonl", "known", "new sidecar")


def given_a_corrected_sidecar(workspace: Workspace) -> None:
    take_refused(workspace)
    (workspace.inbox / "a.jsonl.meta.json").write_text("new sidecar")


def given_an_idle_sidecar(workspace: Workspace) -> None:
    take_refused(workspace)
    (workspace.inbox / "a.jsonl.meta.json").write_text("old sidecar")


SITUATIONS = [
    given_a_file,
    given_a_refused_file,
    given_a_link,
    given_a_folder,
    given_a_second_refusal,
    given_a_duplicate,
    given_a_duplicate_with_a_new_sidecar,
    given_a_corrected_sidecar,
    given_an_idle_sidecar,
]
CONTENTS = (CONTENT, "its sidecar", "old sidecar", "new sidecar", "known", "again")


@pytest.mark.parametrize("given", SITUATIONS)
def test_after_a_crash_at_any_step_the_next_tick_ends_where_an_undisturbed_one_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Callable[[Workspace], None]
) -> None:
    undisturbed = Workspace(tmp_path / "undisturbed").create()
    given(undisturbed)
    dropped = {content: copies(undisturbed.home, content) for content in CONTENTS}
    tick(undisturbed)

    for step in range(100):
        workspace = Workspace(tmp_path / str(step)).create()
        given(workspace)
        crashed = crash_before(monkeypatch, step, lambda: tick(workspace))  # noqa: B023
        assert {content: copies(workspace.home, content) for content in CONTENTS} == dropped, f"step {step}"
        tick(workspace)
        assert tree(workspace.home) == tree(undisturbed.home), f"step {step}"
        if not crashed:
            assert step >= 5
            return
    pytest.fail("the tick did not end within 100 steps")


@pytest.mark.parametrize("given", [given_a_file, given_a_duplicate_with_a_new_sidecar])
def test_a_crash_while_recovering_from_a_crash_is_recovered_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Callable[[Workspace], None]
) -> None:
    undisturbed = Workspace(tmp_path / "undisturbed").create()
    given(undisturbed)
    tick(undisturbed)

    for step in range(15):
        workspace = Workspace(tmp_path / str(step)).create()
        given(workspace)
        for second in range(15):
            crash_before(monkeypatch, step, lambda: tick(workspace))  # noqa: B023
            if not crash_before(monkeypatch, second, lambda: recover(workspace) and None):  # noqa: B023
                break
        tick(workspace)
        assert tree(workspace.home) == tree(undisturbed.home), f"step {step}"


def test_a_process_that_is_killed_among_many_files_loses_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).create()
    for number in range(20):
        drop(workspace, f"{number}.jsonl", f"row {number}", f"sidecar {number}")
    script = """
import os, signal, sys
from pathlib import Path
from gpu_assets.datasets.intake import take_in
from resources.workspace import Workspace
renames, real = 0, os.rename
def rename(old, new):
    global renames
    renames += 1
    real(old, new)
    if renames == 31:
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename
take_in(Workspace(Path(sys.argv[1])), validated=(), open_keys=(), settle_s=0, pause=lambda _: None)
"""
    root = Path(__file__).resolve().parents[2]
    child = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL

    tick(workspace)

    datasets = list_datasets(workspace)
    assert sorted(dataset.data_path.read_text() for dataset in datasets) == sorted(f"row {n}" for n in range(20))
    for dataset in datasets:
        assert dataset.sidecar_path is not None
        assert dataset.sidecar_path.read_text().removeprefix("sidecar ") == dataset.original_name.split(".")[0]


def test_a_file_of_the_same_name_that_came_after_the_crash_is_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(12):
        workspace = Workspace(tmp_path / str(step)).create()
        drop(workspace, "a.jsonl", CONTENT)
        crash_before(monkeypatch, step, lambda: tick(workspace))  # noqa: B023
        if (workspace.inbox / "a.jsonl").exists():
            continue
        drop(workspace, "a.jsonl", "new")
        tick(workspace)
        assert sorted(dataset.data_path.read_text() for dataset in list_datasets(workspace)) == [CONTENT, "new"]


def test_a_file_that_the_user_removed_during_a_crash_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(12):
        workspace = Workspace(tmp_path / str(step)).create()
        empty = tree(workspace.home)
        drop(workspace, "a.jsonl", CONTENT)
        crash_before(monkeypatch, step, lambda: tick(workspace))  # noqa: B023
        if list(workspace.datasets.glob(".incoming-*/intent.json")) and list(workspace.inbox.glob("*.jsonl")):
            (workspace.inbox / "a.jsonl").unlink()
            tick(workspace)
            assert tree(workspace.home) == {name: text for name, text in empty.items() if name != "datasets"}
            return
    pytest.fail("no step lies between the intent and the move")


def test_a_line_of_the_duplicates_that_was_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).create()
    given_a_duplicate(workspace)
    (key,) = dataset_keys(workspace)
    record = workspace.datasets / key / "duplicates.jsonl"
    record.write_text('{"at": "20')

    tick(workspace)

    cut, line = record.read_text().splitlines()
    assert cut == '{"at": "20'
    assert json.loads(line)["kept_as"] == "b.jsonl"


def test_an_intent_that_cannot_be_read_is_named_and_left(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).create()
    staging = workspace.datasets / ".incoming-x"
    staging.mkdir()
    (staging / "intent.json").write_text("{}")
    (staging / "data.jsonl").write_text(CONTENT)

    (problem,) = recover(workspace)

    assert ".incoming-x holds a half-done intake" in problem
    assert (staging / "data.jsonl").exists()


# An inbox on another file system


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("given", [given_a_file, given_a_folder, given_a_link, given_a_duplicate_with_a_new_sidecar])
def test_from_another_file_system_files_are_copied_and_end_in_one_place(
    tmp_path: Path, other_file_system: Path, monkeypatch: pytest.MonkeyPatch, given: Callable[[Workspace], None]
) -> None:
    undisturbed = Workspace(tmp_path / "undisturbed").create()
    given(undisturbed)
    tick(undisturbed)
    expected = {name: text for name, text in tree(undisturbed.home).items() if not name.startswith("inbox")}

    for step in range(100):
        inbox = other_file_system / str(step)
        inbox.mkdir()
        home = tmp_path / str(step)
        home.mkdir()
        (home / "inbox").symlink_to(inbox)
        workspace = Workspace(home).create()
        given(workspace)
        crashed = crash_before(monkeypatch, step, lambda: tick(workspace))  # noqa: B023
        tick(workspace)
        found = {name: text for name, text in tree(home).items() if not name.startswith("inbox")}
        assert found == expected, f"step {step}"
        assert not [path for path in inbox.rglob("*") if not path.is_dir()], f"step {step}"
        if not crashed:
            return
    pytest.fail("the tick did not end within 100 steps")
