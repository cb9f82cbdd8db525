"""What the inbox does not take in goes to quarantine with a sentence, and is never followed or lost."""

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_assets.datasets.intake import take_in
from gpu_assets.datasets.records import find_dataset
from resources.workspace import Workspace
from tests.datasets.conftest import ROWS, drop


def make_directory(path: Path) -> None:
    path.mkdir()
    (path / "inner.jsonl").write_text(ROWS)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's path is short: bind through the descriptor of its folder.
        folder = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


@pytest.mark.parametrize(
    ("name", "make", "seen"),
    [
        ("d.jsonl", make_directory, "a directory"),
        ("folder", make_directory, "a directory"),
        ("s.jsonl", lambda path: path.symlink_to("/etc/hostname"), "a symbolic link to /etc/hostname"),
        ("broken.jsonl", lambda path: path.symlink_to("nowhere"), "a symbolic link to nowhere"),
        ("f.jsonl", os.mkfifo, "a FIFO"),
        ("u.jsonl", make_socket, "a socket"),
        ("a.csv", lambda path: path.write_text("1,2"), "a file of another name"),
        ("reason.json", lambda path: path.write_text("{}"), "a file of another name"),
        ("\udcff.txt", lambda path: path.write_text("1,2"), "a file of another name"),
        ("y" * 251 + ".txt", lambda path: path.write_text("1,2"), "a file of another name"),
    ],
)
def test_what_is_no_data_file_goes_to_quarantine_with_a_sentence_and_becomes_a_partition(
    workspace: Workspace, tick, name: str, make, seen: str
) -> None:
    make(workspace.inbox / name)
    before = (workspace.inbox / name).lstat()

    (key,) = tick().refused

    folder = workspace.quarantine / key
    reason = json.loads((folder / "reason.json").read_text())
    (kept,) = (path for path in folder.iterdir() if path.name != "reason.json")
    assert kept.lstat().st_ino == before.st_ino
    assert reason["seen"] == seen
    assert {"kind", "sentence", "original_name", "seen", "wanted", "next_step", "at"} == set(reason)
    dataset = find_dataset(workspace, key)
    assert dataset.refused == reason["sentence"]
    assert f"is {seen}; wanted: a regular file named *.jsonl" in reason["sentence"]
    assert not dataset.data_path.exists()
    assert not os.path.lexists(workspace.inbox / name)


def test_a_refused_file_takes_its_sidecar_with_it(workspace: Workspace, tick) -> None:
    drop(workspace, "a.csv", sidecar="{}")

    (key,) = tick().refused

    names = sorted(path.name for path in (workspace.quarantine / key).iterdir())
    assert names == ["a.csv", "a.csv.meta.json", "reason.json"]


def test_a_file_whose_sidecar_is_a_link_is_refused_with_it(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    (workspace.inbox / "a.jsonl.meta.json").symlink_to("/etc/hostname")

    (key,) = tick().refused

    assert "whose sidecar is a symlink" in (find_dataset(workspace, key).refused or "")
    assert (workspace.quarantine / key / "a.jsonl.meta.json").is_symlink()


def test_a_link_in_place_of_a_priority_folder_is_not_followed(workspace: Workspace, tick, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.jsonl").write_text(ROWS)
    (workspace.inbox / "high").rmdir()
    (workspace.inbox / "high").symlink_to(tmp_path / "outside")

    report = tick()

    assert len(report.refused) == 1
    assert (tmp_path / "outside" / "a.jsonl").exists()


def test_the_same_refusal_again_is_kept_beside_the_first_and_opens_the_partition(workspace: Workspace, tick) -> None:
    for _ in range(2):
        (workspace.inbox / "d").mkdir()
        (key,) = tick().refused

    assert sorted(path.name for path in (workspace.quarantine / key).iterdir()) == ["d", "d.2", "reason.json"]
    assert (workspace.datasets / key / "retry.json").exists()


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Whoever runs the tests, rights count."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_is_refused(tmp_path_factory, unprivileged: None) -> None:
    with tempfile.TemporaryDirectory() as home:
        workspace = Workspace(Path(home)).create()
        drop(workspace, "a.jsonl").chmod(0)
        drop(workspace, "b.jsonl")

        report = take_in(workspace, validated=(), open_keys=(), settle_s=0, pause=lambda _: None)

        assert [key[0] for key in report.taken_in] == ["b"]
        (key,) = report.refused
        assert "a file that may not be read" in (find_dataset(workspace, key).refused or "")


def test_a_file_whose_sidecar_may_not_be_read_is_refused_with_it(unprivileged: None) -> None:
    with tempfile.TemporaryDirectory() as home:
        workspace = Workspace(Path(home)).create()
        drop(workspace, "a.jsonl", sidecar="{}").with_name("a.jsonl.meta.json").chmod(0)
        drop(workspace, "b.jsonl")

        report = take_in(workspace, validated=(), open_keys=(), settle_s=0, pause=lambda _: None)

        assert [key[0] for key in report.taken_in] == ["b"]
        (key,) = report.refused
        assert "a file whose sidecar may not be read" in (find_dataset(workspace, key).refused or "")


def test_a_folder_that_may_not_be_looked_into_is_named_and_holds_no_other(unprivileged: None) -> None:
    with tempfile.TemporaryDirectory() as home:
        workspace = Workspace(Path(home)).create()
        drop(workspace, "a.jsonl")
        (workspace.inbox / "high").chmod(0)

        report = take_in(workspace, validated=(), open_keys=(), settle_s=0, pause=lambda _: None)
        (workspace.inbox / "high").chmod(0o755)

        assert [key[0] for key in report.taken_in] == ["a"]
        assert "high cannot be looked into (Permission denied)" in report.notes[0]
