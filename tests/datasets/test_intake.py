"""Ticks over the inbox: what is taken in, what waits, and in which order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_assets.datasets.intake import Limits
from gpu_assets.datasets.records import find_dataset, list_datasets
from resources.artifacts import sha256_file
from resources.workspace import Workspace
from tests.datasets.conftest import ROWS, drop, left_in_inbox


def test_a_file_and_its_sidecar_move_together_unchanged(workspace: Workspace, tick) -> None:
    source = drop(workspace, "high/a.jsonl", sidecar="not json \N{SNOWMAN}")
    sha256 = sha256_file(source)

    (key,) = tick().taken_in

    dataset = find_dataset(workspace, key)
    assert key == f"a-{sha256[:8]}"
    assert dataset.sha256 == sha256_file(dataset.data_path) == sha256
    assert dataset.size_bytes == len(ROWS)
    assert dataset.sidecar_path is not None
    assert dataset.sidecar_path.read_text() == "not json \N{SNOWMAN}"
    assert sorted(path.name for path in dataset.folder.iterdir()) == ["data.jsonl", "manifest.json", "sidecar.json"]
    assert left_in_inbox(workspace) == []


def test_a_second_tick_has_nothing_to_do_and_does_not_wait(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    tick()
    waited: list[None] = []

    report = tick(between=lambda: waited.append(None))

    assert (report.taken_in, report.refused, report.notes, waited) == ([], [], [], [])


def test_a_tick_waits_once_for_all_files(workspace: Workspace, tick) -> None:
    for number in range(20):
        drop(workspace, f"{number}.jsonl", f'{{"text": "{number}"}}\n')
    waited: list[None] = []

    assert len(tick(between=lambda: waited.append(None)).taken_in) == 20
    assert len(waited) == 1


def test_a_file_that_grows_between_the_looks_is_left_for_the_next_tick(workspace: Workspace, tick) -> None:
    source = drop(workspace, "a.jsonl")

    def grow() -> None:
        with source.open("a") as file:
            file.write(ROWS)

    report = tick(between=grow)
    assert report.taken_in == []
    assert report.notes == ["1 entries of the inbox are still changing"]
    assert len(tick().taken_in) == 1


def test_a_file_that_came_after_the_first_look_is_left_for_the_next_tick(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")

    report = tick(between=lambda: drop(workspace, "b.jsonl", "other") and None)

    assert [key[0] for key in report.taken_in] == ["a"]
    assert left_in_inbox(workspace) == ["b.jsonl"]


def test_a_sidecar_that_comes_between_the_looks_goes_with_its_file_in_the_next_tick(workspace: Workspace, tick) -> None:
    source = drop(workspace, "a.jsonl")

    assert tick(between=lambda: source.with_name("a.jsonl.meta.json").write_text("{}") and None).taken_in == []

    (key,) = tick().taken_in
    assert find_dataset(workspace, key).sidecar_path is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a file open")
def test_a_file_that_a_process_still_writes_is_not_read_however_slow_it_writes(workspace: Workspace, tick) -> None:
    path = workspace.inbox / "a.jsonl"
    script = (
        "import sys\nf = open(sys.argv[1], 'w')\nfor line in sys.stdin:\n  f.write(line); f.flush(); print(flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin is not None and writer.stdout is not None
        for _ in range(2):
            writer.stdin.write(ROWS)
            writer.stdin.flush()
            writer.stdout.readline()
            report = tick(now=path.stat().st_mtime)
            assert report.taken_in == []
            assert report.notes == ["a.jsonl is held open for writing by another program"]
        writer.stdin.close()
        writer.wait(timeout=30)

    (key,) = tick().taken_in
    assert find_dataset(workspace, key).data_path.read_text() == ROWS * 2


def test_a_program_that_forgot_to_close_a_file_does_not_hold_it_for_ever(workspace: Workspace, tick) -> None:
    with (workspace.inbox / "a.jsonl").open("w") as file:
        file.write(ROWS)
        file.flush()
        assert len(tick(now=os.fstat(file.fileno()).st_mtime + 601).taken_in) == 1


def test_a_file_written_to_while_it_is_moved_is_put_back(workspace: Workspace, tick, monkeypatch) -> None:
    source = drop(workspace, "a.jsonl")
    real_rename = os.rename

    def append_then_rename(old: Path, new: Path) -> None:
        if Path(old) == source:
            with source.open("a") as file:
                file.write(ROWS)
        real_rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", append_then_rename)
        report = tick()

    assert report.taken_in == []
    assert "changed or went away" in report.notes[0]
    assert source.read_text() == ROWS * 2
    assert len(tick().taken_in) == 1


@pytest.mark.parametrize("name", [".a.jsonl", "a.jsonl.tmp", "a.jsonl.part", "a.jsonl.crdownload", "a.swp", "a.jsonl~"])
def test_names_of_transfers_under_way_are_passed_over_without_a_word(workspace: Workspace, tick, name: str) -> None:
    drop(workspace, name)

    report = tick()

    assert (report.taken_in, report.refused, report.notes) == ([], [], [])
    assert left_in_inbox(workspace) == [name]


@pytest.mark.parametrize(
    ("place", "sidecar", "expected"),
    [
        ("high/a.jsonl", '{"priority": "low"}', ("high", "folder")),
        ("a.jsonl", '{"priority": "low"}', ("low", "sidecar")),
        ("a.jsonl", '{"priority": "urgent"}', ("normal", "default")),
        ("a.jsonl", "[" * 100_000, ("normal", "default")),
        ("a.jsonl", None, ("normal", "default")),
    ],
)
def test_priority_is_the_folders_then_the_sidecars_then_normal(
    workspace: Workspace, tick, place: str, sidecar: str | None, expected: tuple[str, str]
) -> None:
    drop(workspace, place, sidecar=sidecar)

    (key,) = tick().taken_in

    dataset = find_dataset(workspace, key)
    assert (dataset.priority, dataset.priority_source) == expected


def test_a_tick_takes_a_bounded_number_of_files_and_bytes_the_urgent_ones_first(workspace: Workspace, tick) -> None:
    for name, age in (("low/l", 9), ("n1", 5), ("n2", 7), ("high/h", 1)):
        path = drop(workspace, f"{name}.jsonl", f"{name:10}")
        os.utime(path, (1e9 - age, 1e9 - age))

    def taken(limits: Limits) -> list[str]:
        return [key.split("-")[0] for key in tick(limits=limits).taken_in]

    assert taken(Limits(files=2)) == ["h", "n2"]
    assert taken(Limits(hashed_bytes=1)) == ["n1"], "one file is taken though it is over the budget"
    assert taken(Limits(hashed_bytes=10)) == ["l"]


@pytest.mark.parametrize(
    "name",
    ["ä ö.jsonl", "\udcff\udcfe.jsonl", "a\nb.jsonl", "-rf.jsonl", "a...b.jsonl", "%2e%2e.jsonl", "x" * 249 + ".jsonl"],
)
def test_a_file_of_any_name_is_taken_in_and_its_name_kept(workspace: Workspace, tick, name: str) -> None:
    drop(workspace, name)

    (key,) = tick().taken_in

    dataset = find_dataset(workspace, key)
    assert dataset.data_path.read_text() == ROWS
    assert dataset.original_name.isprintable()
    assert dataset.original_name[-6:] == ".jsonl"


@pytest.mark.parametrize("content", ["", "\n", "\0\0", '{"text": "half'])
def test_content_is_for_the_gates_to_judge(workspace: Workspace, tick, content: str) -> None:
    drop(workspace, "a.jsonl", content)

    (key,) = tick().taken_in

    assert find_dataset(workspace, key).refused is None


def test_one_entry_that_cannot_be_moved_does_not_hold_the_others(workspace: Workspace, tick, monkeypatch) -> None:
    stuck = drop(workspace, "a.jsonl")
    drop(workspace, "b.jsonl", "other")
    real_rename = os.rename

    def rename(old: Path, new: Path) -> None:
        if Path(old) == stuck:
            raise OSError(30, "Read-only file system", str(old))
        real_rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        report = tick()

    assert [key[0] for key in report.taken_in] == ["b"]
    assert report.notes[0].startswith("a.jsonl stays in the inbox: [Errno 30] Read-only file system")
    tick()
    assert sorted(dataset.original_name for dataset in list_datasets(workspace)) == ["a.jsonl", "b.jsonl"]


def test_a_file_that_goes_away_between_the_looks_is_named_and_holds_no_other(workspace: Workspace, tick) -> None:
    gone = drop(workspace, "a.jsonl")
    drop(workspace, "b.jsonl", "other")

    report = tick(between=gone.unlink)

    assert [key[0] for key in report.taken_in] == ["b"]
    assert report.notes == ["a.jsonl went away before it was taken in"]


def test_a_file_that_goes_away_after_the_looks_is_named_and_holds_no_other(
    workspace: Workspace, tick, monkeypatch
) -> None:
    gone = drop(workspace, "a.jsonl")
    drop(workspace, "b.jsonl", "other")
    real_open = os.open

    def remove_then_open(path, *arguments):
        if Path(path) == gone:
            gone.unlink(missing_ok=True)
        return real_open(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", remove_then_open)
        report = tick()

    assert [key[0] for key in report.taken_in] == ["b"]
    assert report.notes == ["a.jsonl went away before it was taken in"]


def test_data_that_comes_to_its_sidecar_between_the_looks_has_not_gone_away(workspace: Workspace, tick) -> None:
    (workspace.inbox / "a.jsonl.meta.json").write_text("{}")

    report = tick(between=lambda: drop(workspace, "a.jsonl") and None)

    assert report.notes == ["1 entries of the inbox are still changing"]
    assert len(tick().taken_in) == 1


def test_a_tick_that_meets_another_one_does_nothing(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    inner = []

    outer = tick(between=lambda: inner.append(tick()))

    assert inner[0].notes == ["an earlier tick is still taking files in"]
    assert len(outer.taken_in) == 1


def test_two_contents_with_the_same_eight_digits_and_name_have_two_keys(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    (key,) = tick().taken_in
    manifest = workspace.datasets / key / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"sha256": key[-8:] + "0" * 56}))
    drop(workspace, "a.jsonl")

    (other,) = tick().taken_in

    assert other == f"a-{sha256_file(workspace.datasets / other / 'data.jsonl')[:16]}"
