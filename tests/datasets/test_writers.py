"""A file is taken in whole: whoever still writes to it, however slowly, is waited for."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_assets.datasets.intake import IntakeReport, take_in
from gpu_assets.datasets.records import find_dataset
from gpu_assets.datasets.scan import Look, look_at
from gpu_assets.datasets.writers import has_cut_line, is_open_for_writing, seconds_until_settled
from resources.workspace import Workspace
from tests.datasets.conftest import ROWS, drop, left_in_inbox

CHANGED_AT = 1_000_000_000.0


class Clock:
    """Time that passes where a tick waits, and nowhere else."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def tick_after(workspace: Workspace) -> Callable[..., tuple[IntakeReport, list[float]]]:
    """A tick that begins so many seconds after a file's last change, and for how long it waited."""

    def run(path: Path, seconds: float, settle_s: float = 3.0) -> tuple[IntakeReport, list[float]]:
        clock = Clock(path.lstat().st_mtime + seconds)
        report = take_in(
            workspace, validated=(), open_keys=(), settle_s=settle_s, pause=clock.pause, now=lambda: clock.now
        )
        return report, clock.pauses

    return run


def look(path: Path) -> Look:
    found = look_at(path)
    assert found is not None
    return found


@pytest.mark.parametrize(("age", "left"), [(0, 3.0), (1, 2.0), (3, 0.0), (60, 0.0), (-60, 0.0)])
def test_a_file_that_was_written_where_it_lies_must_lie_still(workspace: Workspace, age: float, left: float) -> None:
    path = drop(workspace, "a.jsonl")

    now = path.lstat().st_mtime + age

    assert seconds_until_settled(path, look(path), now, 3.0) == pytest.approx(left, abs=1e-3)


def test_a_file_that_was_renamed_or_given_its_time_after_it_was_written_is_whole_at_once(workspace: Workspace) -> None:
    path = drop(workspace, "a.jsonl")
    os.utime(path, (CHANGED_AT, CHANGED_AT))

    assert seconds_until_settled(path, look(path), CHANGED_AT, 3.0) == 0


def test_a_file_that_is_gone_is_for_others_to_miss(workspace: Workspace) -> None:
    path = drop(workspace, "a.jsonl")
    seen = look(path)
    path.unlink()

    assert seconds_until_settled(path, seen, seen.mtime_ns / 1e9, 3.0) == 0


def test_a_young_file_is_waited_for_within_the_tick(workspace: Workspace, tick_after) -> None:
    path = drop(workspace, "a.jsonl")

    report, pauses = tick_after(path, 0.5)

    assert len(report.taken_in) == 1
    assert pauses == [1.0, pytest.approx(1.5, abs=0.1)]


def test_a_file_that_is_old_enough_at_the_second_look_costs_no_further_wait(workspace: Workspace, tick_after) -> None:
    path = drop(workspace, "a.jsonl")

    report, pauses = tick_after(path, 2.5)

    assert (len(report.taken_in), pauses) == (1, [1.0])


def test_a_file_that_needs_longer_than_a_tick_waits_for_the_next_and_says_so(workspace: Workspace, tick_after) -> None:
    path = drop(workspace, "a.jsonl")

    report, pauses = tick_after(path, 0.5, settle_s=60)

    assert (report.taken_in, pauses) == ([], [1.0])
    assert report.notes == ["a.jsonl was changed a moment ago; it must lie still for 58.5 s more (intake.settle_s)"]
    assert len(tick_after(path, 60, settle_s=60)[0].taken_in) == 1


def test_a_young_sidecar_holds_its_file(workspace: Workspace, tick_after) -> None:
    path = drop(workspace, "a.jsonl", sidecar="{}")
    os.utime(path, (CHANGED_AT, CHANGED_AT))

    report, _ = tick_after(path.with_name("a.jsonl.meta.json"), 0, settle_s=60)

    assert report.taken_in == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a file open")
def test_a_writer_that_appends_closes_and_pauses_is_one_dataset(workspace: Workspace) -> None:
    path = workspace.inbox / "a.jsonl"
    script = (
        "import sys, time\n"
        "for number in range(4):\n"
        "  if number: time.sleep(1.5)\n"
        "  with open(sys.argv[1], 'a') as file: file.write(f'{{\"text\": \"{number}\"}}\\n')\n"
    )
    keys: list[str] = []
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as writer:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (keys and writer.poll() is not None):
            keys += take_in(workspace, validated=(), open_keys=(), settle_s=5).taken_in
            time.sleep(0.1)

    (key,) = keys
    assert find_dataset(workspace, key).data_path.read_text() == "".join(f'{{"text": "{n}"}}\n' for n in range(4))
    assert left_in_inbox(workspace) == []


@pytest.fixture
def without_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has none."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(fcntl, "fcntl", refuse)


def test_where_writers_cannot_be_seen_a_tick_says_so_once(workspace: Workspace, tick, without_leases: None) -> None:
    drop(workspace, "a.jsonl")
    drop(workspace, "b.jsonl", "other\n")

    report = tick()

    assert len(report.taken_in) == 2
    assert report.notes == [
        "whether a program still writes to a file cannot be seen here (a.jsonl: Invalid argument): files are taken in "
        "3 s after their last change (intake.settle_s)"
    ]


def test_where_writers_cannot_be_seen_a_file_whose_last_line_has_no_end_waits_longer(
    workspace: Workspace, tick_after, without_leases: None
) -> None:
    path = drop(workspace, "a.jsonl", ROWS + '{"text": "ha')

    assert "a.jsonl has no end of its last line" in tick_after(path, 10)[0].notes[0]
    assert len(tick_after(path, 30)[0].taken_in) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a file open")
def test_where_writers_can_be_seen_a_last_line_without_an_end_is_nothing_special(
    workspace: Workspace, tick_after
) -> None:
    path = drop(workspace, "a.jsonl", '{"text": "x"}')

    assert tick_after(path, 10)[0].notes == []
    assert left_in_inbox(workspace) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has leases")
def test_a_descriptor_without_a_lease_raises_its_reason(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError):
        is_open_for_writing(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(("content", "is_cut"), [("", False), ("a", True), ("a\n", False), ("a\r", False)])
def test_a_cut_line_is_seen_and_the_file_is_read_from_its_beginning_afterwards(
    tmp_path: Path, content: str, is_cut: bool
) -> None:
    (tmp_path / "f").write_bytes(content.encode())
    with (tmp_path / "f").open("rb") as file:
        assert has_cut_line(file) == is_cut
        assert file.read() == content.encode()
