import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_assets.datasets.intake import Limits, take_in
from gpu_assets.datasets.records import (
    find_dataset,
    list_datasets,
    sidecar_sha256,
    standing_refusal,
    write_refusal,
)
from resources.artifacts import sha256_file
from resources.workspace import Workspace

ROWS = '{"text": "x"}\n'


def drop(workspace: Workspace, name: str, content: str = ROWS, sidecar: str | None = None) -> Path:
    path = workspace.inbox / name
    path.write_text(content)
    if sidecar is not None:
        path.with_name(path.name + ".meta.json").write_text(sidecar)
    return path


def left_in_inbox(workspace: Workspace) -> list[str]:
    return sorted(path.name for path in workspace.inbox.rglob("*") if not path.is_dir())


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


# What cannot be taken in


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
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        workspace = Workspace(Path(home)).create()
        drop(workspace, "a.jsonl").chmod(0)
        drop(workspace, "b.jsonl")

        report = take_in(workspace, validated=(), open_keys=(), pause=lambda _: None)

        assert [key[0] for key in report.taken_in] == ["b"]
        (key,) = report.refused
        assert "a file that may not be read" in (find_dataset(workspace, key).refused or "")


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


def test_a_tick_that_meets_another_one_does_nothing(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    inner = []

    outer = tick(between=lambda: inner.append(tick()))

    assert inner[0].notes == ["an earlier tick is still taking files in"]
    assert len(outer.taken_in) == 1


# Duplicates and sidecars


def refuse(workspace: Workspace, key: str) -> None:
    folder = workspace.datasets / key
    write_refusal(folder, "no such schema", {}, sidecar_sha256(folder))


def duplicates(workspace: Workspace, key: str) -> list[dict[str, object]]:
    text = (workspace.datasets / key / "duplicates.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("second", ["b.jsonl", "a.jsonl", "high/c.jsonl"])
def test_known_content_is_kept_beside_the_first_and_is_no_new_dataset(workspace: Workspace, tick, second: str) -> None:
    drop(workspace, "a.jsonl", sidecar="{}")
    (key,) = tick().taken_in
    drop(workspace, second, sidecar='{"priority": "low"}')

    report = tick()

    name = Path(second).name
    assert report.taken_in == []
    assert report.notes == [f"{name} has the content of {key}: nothing new is trained"]
    assert (workspace.datasets / key / "duplicates" / name).read_text() == ROWS
    assert (workspace.datasets / key / "duplicates" / f"{name}.meta.json").exists()
    assert [(line["original_name"], line["kept_as"]) for line in duplicates(workspace, key)] == [(name, name)]
    assert find_dataset(workspace, key).sidecar_path.read_text() == "{}"
    assert left_in_inbox(workspace) == []


def test_two_files_of_one_content_in_one_tick_are_one_dataset(workspace: Workspace, tick) -> None:
    for name in ("a.jsonl", "b.jsonl", "high/a.jsonl", "low/a.jsonl"):
        drop(workspace, name)

    (key,) = tick().taken_in

    kept = sorted(path.name for path in (workspace.datasets / key / "duplicates").iterdir())
    assert kept == ["a.2.jsonl", "a.jsonl", "b.jsonl"]
    assert find_dataset(workspace, key).priority == "high"


def test_another_content_under_a_known_name_is_another_dataset(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    (first,) = tick().taken_in
    drop(workspace, "a.jsonl", "other")

    (second,) = tick().taken_in

    assert first != second


def test_a_new_sidecar_with_known_refused_content_opens_the_dataset_again(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl", sidecar='{"schema_id": "typo"}')
    (key,) = tick().taken_in
    refuse(workspace, key)
    drop(workspace, "b.jsonl", sidecar='{"schema_id": "completion_v1"}')

    assert "its sidecar opens that dataset again" in tick().notes[0]

    folder = workspace.datasets / key
    assert standing_refusal(folder) is None
    assert (folder / "sidecar.json").read_text() == '{"schema_id": "completion_v1"}'
    assert (folder / "sidecar.1.json").read_text() == '{"schema_id": "typo"}'
    assert (folder / "retry.json").exists()
    assert (folder / "duplicates" / "b.jsonl").exists()
    assert duplicates(workspace, key)[0]["sidecar_used"] is True


def test_the_same_sidecar_with_known_refused_content_changes_nothing(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl", sidecar="{}")
    (key,) = tick().taken_in
    refuse(workspace, key)
    drop(workspace, "a.jsonl", sidecar="{}")

    tick()

    assert standing_refusal(workspace.datasets / key) is not None


def test_a_sidecar_that_is_dropped_alone_corrects_the_dataset_of_its_name(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    (key,) = tick().taken_in
    refuse(workspace, key)
    (workspace.inbox / "low" / "a.jsonl.meta.json").write_text('{"schema_id": "completion_v1"}')

    assert tick().notes == [f"a.jsonl.meta.json is the new sidecar of {key}"]

    assert standing_refusal(workspace.datasets / key) is None
    assert find_dataset(workspace, key).sidecar_path is not None
    assert left_in_inbox(workspace) == []


def test_every_sidecar_that_was_corrected_is_kept(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl", sidecar="0")
    (key,) = tick().taken_in
    for number in (1, 2):
        (workspace.inbox / "a.jsonl.meta.json").write_text(str(number))
        tick()

    folder = workspace.datasets / key
    texts = [(folder / name).read_text() for name in ("sidecar.1.json", "sidecar.2.json", "sidecar.json")]
    assert texts == ["0", "1", "2"]


@pytest.mark.parametrize(("validated", "why"), [(True, "was validated already"), (False, "has the same sidecar")])
def test_a_sidecar_that_can_change_nothing_is_kept_beside_with_a_sentence(
    workspace: Workspace, tick, validated: bool, why: str
) -> None:
    drop(workspace, "a.jsonl", sidecar="{}")
    (key,) = tick().taken_in
    (workspace.inbox / "a.jsonl.meta.json").write_text('{"source": "x"}' if validated else "{}")

    (note,) = tick(validated=[key] if validated else []).notes

    assert f"changes nothing: {key} {why}" in note
    assert (workspace.datasets / key / "sidecar.json").read_text() == "{}"
    assert (workspace.datasets / key / "sidecar.ignored.json").exists()


def test_a_sidecar_of_a_dataset_in_an_open_run_waits_for_its_end(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    (key,) = tick().taken_in
    (workspace.inbox / "a.jsonl.meta.json").write_text("{}")
    drop(workspace, "b.jsonl", sidecar="{}")

    notes = tick(open_keys=[key]).notes

    assert len(notes) == 2
    assert all(f"waits until the run over {key} has ended" in note for note in notes)
    assert left_in_inbox(workspace) == ["a.jsonl.meta.json", "b.jsonl", "b.jsonl.meta.json"]


def test_a_sidecar_without_a_data_file_waits_and_is_named(workspace: Workspace, tick) -> None:
    (workspace.inbox / "a.jsonl.meta.json").write_text("{}")

    assert tick().notes == ["a.jsonl.meta.json waits for its data file, a.jsonl"]
    assert left_in_inbox(workspace) == ["a.jsonl.meta.json"]


def test_a_young_sidecar_may_be_the_first_of_a_pair_and_is_not_given_to_an_older_dataset(
    workspace: Workspace, tick
) -> None:
    drop(workspace, "a.jsonl")
    (first,) = tick().taken_in
    sidecar = workspace.inbox / "a.jsonl.meta.json"
    sidecar.write_text("{}")

    tick(now=sidecar.stat().st_ctime + 1)
    drop(workspace, "a.jsonl", "other")
    (second,) = tick().taken_in

    assert find_dataset(workspace, first).sidecar_path is None
    assert find_dataset(workspace, second).sidecar_path is not None


def test_two_contents_with_the_same_eight_digits_and_name_have_two_keys(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    (key,) = tick().taken_in
    manifest = workspace.datasets / key / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"sha256": key[-8:] + "0" * 56}))
    drop(workspace, "a.jsonl")

    (other,) = tick().taken_in

    assert other == f"a-{sha256_file(workspace.datasets / other / 'data.jsonl')[:16]}"
