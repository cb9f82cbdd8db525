"""Start, restart and stop, with stand-in commands as real processes."""

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from gpu_assets.cli.children import ChildSpec
from gpu_assets.cli.home import HomeLock
from gpu_assets.cli.supervisor import RESTARTS, Supervisor, describe_stop
from gpu_assets.errors import InUse, ServiceUnavailable
from gpu_assets.settings import PROJECT_ROOT, Settings, load_settings
from tests.cli.stand_ins import WAITS, StandIns, is_gone, wait_until

Supervise = Callable[..., Supervisor]


@pytest.fixture
def settings(hosts_file: Path) -> Settings:
    return load_settings()


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def supervise(settings: Settings, output: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Supervise:
    monkeypatch.setattr("gpu_assets.cli.supervisor.RESTART_PAUSE_S", 0)
    return lambda *specs: Supervisor(settings, {}, Console(file=output), specs)


def test_leaving_the_block_ends_every_child_and_its_descendants(supervise: Supervise, stand_ins: StandIns) -> None:
    first = stand_ins.spec("first")
    second = stand_ins.spec("second", stand_ins.parent("orphan") + WAITS, kill_after_s=1)

    with supervise(first, second):
        processes = [stand_ins.process(name) for name in ("first", "second", "orphan")]
        assert not any(is_gone(process) for process in processes)

    assert all(is_gone(process) for process in processes)


def test_an_error_inside_the_block_ends_every_child_too(supervise: Supervise, stand_ins: StandIns) -> None:
    with pytest.raises(ZeroDivisionError), supervise(stand_ins.spec("child")):
        child = stand_ins.process("child")
        _ = 1 / 0

    assert is_gone(child)


def test_a_child_that_cannot_be_prepared_ends_those_already_started(supervise: Supervise, stand_ins: StandIns) -> None:
    def refuse() -> list[str]:
        stand_ins.process("first")
        raise ServiceUnavailable("no command")

    broken = ChildSpec("broken", refuse, stand_ins.folder / "broken.log")

    with pytest.raises(ServiceUnavailable, match="no command"), supervise(stand_ins.spec("first"), broken):
        pytest.fail("the block is entered")

    assert is_gone_or_reaped(stand_ins.pid("first"))


def is_gone_or_reaped(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_child_that_dies_is_restarted_three_times_and_the_fourth_death_ends_all(
    supervise: Supervise, stand_ins: StandIns, output: io.StringIO
) -> None:
    with (
        pytest.raises(ServiceUnavailable) as raised,
        supervise(stand_ins.spec("child"), stand_ins.spec("other")) as platform,
    ):
        other = stand_ins.process("other")
        for death in range(RESTARTS + 1):
            child = stand_ins.process("child")
            stand_ins.forget("child")
            child.kill()
            wait_until(lambda: platform.children[0].ended() is not None, "the death is seen")
            assert output.getvalue().count("started again") == death
            platform.watch_once()

    log = stand_ins.folder / "child.log"
    assert str(raised.value) == (
        f"child ended with SIGKILL, and was started again 3 times before; everything is stopped; its log: {log}"
    )
    assert f"child ended with SIGKILL and is started again, 1 of 3; its log: {log}.1" in output.getvalue()
    assert is_gone(other)


def test_a_child_that_runs_and_is_of_no_use_is_ended_and_started_again_three_times(
    supervise: Supervise, stand_ins: StandIns, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_assets.cli.supervisor.ASK_EVERY_S", 0)
    command, log = stand_ins.command("child"), stand_ins.folder / "child.log"
    answers = [None, *["its engine has stopped"] * 4]
    spec = ChildSpec("child", lambda: command, log, is_dead=lambda: answers.pop(0))

    with pytest.raises(ServiceUnavailable) as raised, supervise(spec) as platform:
        platform.watch_once()
        for _ in range(RESTARTS + 1):
            child = stand_ins.process("child")
            stand_ins.forget("child")
            platform.watch_once()
            assert is_gone(child)

    assert str(raised.value).startswith("child runs, but its engine has stopped, and was started again 3 times before;")
    sentence = f"child runs, but its engine has stopped, and is started again, 3 of 3; its log: {log}.1"
    assert sentence in output.getvalue()
    assert not answers


def test_children_that_run_are_asked_now_and_then_only(supervise: Supervise, stand_ins: StandIns) -> None:
    asked: list[int] = []
    command, log = stand_ins.command("child"), stand_ins.folder / "child.log"

    with supervise(ChildSpec("child", lambda: command, log, is_dead=lambda: asked.append(1))) as platform:
        platform.watch_once()
        platform.watch_once()

    assert len(asked) == 1


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (KeyboardInterrupt(), "stopped by Ctrl-C"),
        (KeyboardInterrupt(signal.SIGINT), "stopped by Ctrl-C"),
        (KeyboardInterrupt(signal.SIGTERM), "stopped by SIGTERM"),
    ],
)
def test_the_last_word_names_what_stopped_it(stop: KeyboardInterrupt, words: str) -> None:
    assert describe_stop(stop) == words


def test_a_child_that_runs_is_left_alone(supervise: Supervise, stand_ins: StandIns) -> None:
    with supervise(stand_ins.spec("child")) as platform:
        child = stand_ins.process("child")
        platform.watch_once()

        assert not is_gone(child)
        assert platform.children[0].deaths == 0


def test_the_command_is_asked_for_at_each_start(supervise: Supervise, stand_ins: StandIns) -> None:
    names = iter(["before", "after"])
    spec = ChildSpec("child", lambda: stand_ins.command(next(names)), stand_ins.folder / "child.log")

    with supervise(spec) as platform:
        stand_ins.process("before").kill()
        wait_until(lambda: platform.children[0].ended() is not None, "the death is seen")
        platform.watch_once()

        assert not is_gone(stand_ins.process("after"))


def test_healthy_is_when_every_child_waits_for_nothing(supervise: Supervise, stand_ins: StandIns) -> None:
    answers = iter(["its port", "its daemons", None])
    command = stand_ins.command("child")
    spec = ChildSpec("child", lambda: command, stand_ins.folder / "child.log", waits_for=lambda: next(answers))

    with supervise(spec) as platform:
        platform.wait_healthy()

    assert next(answers, "exhausted") == "exhausted"


def test_what_is_missing_is_said_when_the_time_is_over(supervise: Supervise, stand_ins: StandIns) -> None:
    command, log = stand_ins.command("child"), stand_ins.folder / "child.log"
    spec = ChildSpec("child", lambda: command, log, waits_for=lambda: "its port")

    with supervise(spec) as platform, pytest.raises(ServiceUnavailable, match=f"child waits for its port; logs: {log}"):
        platform.wait_healthy(timeout_s=0.01)


def test_a_child_is_stopped_before_those_it_was_started_after(supervise: Supervise, stand_ins: StandIns) -> None:
    stopped: list[str] = []

    def spec(name: str) -> ChildSpec:
        command, log = stand_ins.command(name), stand_ins.folder / f"{name}.log"
        return ChildSpec(name, lambda: command, log, before_stop=lambda: stopped.append(name))

    with supervise(spec("first"), spec("second")):
        stand_ins.process("first")
        stand_ins.process("second")

    assert stopped == ["second", "first"]


def test_what_is_left_to_do_after_a_stop_is_done_when_the_child_is_gone(
    supervise: Supervise, stand_ins: StandIns
) -> None:
    seen: list[bool] = []
    command, log = stand_ins.command("child"), stand_ins.folder / "child.log"
    spec = ChildSpec("child", lambda: command, log, after_stop=lambda: seen.append(is_gone(child)))

    with supervise(spec):
        child = stand_ins.process("child")

    assert seen == [True]


def test_a_failing_step_before_a_stop_does_not_keep_the_child_running(
    supervise: Supervise, stand_ins: StandIns
) -> None:
    def fail() -> None:
        raise ServiceUnavailable("the instance is locked")

    command, log = stand_ins.command("child"), stand_ins.folder / "child.log"

    with (
        pytest.raises(ServiceUnavailable, match="the instance is locked"),
        supervise(ChildSpec("child", lambda: command, log, before_stop=fail)),
    ):
        child = stand_ins.process("child")

    assert is_gone(child)


def test_a_home_that_is_held_starts_nothing(supervise: Supervise, settings: Settings, stand_ins: StandIns) -> None:
    with (
        supervise(stand_ins.spec("child")),
        pytest.raises(InUse, match="is held by process"),
        supervise(stand_ins.spec("another")),
    ):
        pytest.fail("the block is entered")

    assert not (stand_ins.folder / "another.pid").exists()


@pytest.mark.parametrize("service", ["inference", "dagster"])
def test_a_port_in_use_starts_nothing_and_gives_the_home_back(
    supervise: Supervise, settings: Settings, stand_ins: StandIns, service: str
) -> None:
    with (
        socket.create_server(settings.hosts.address(service)),
        pytest.raises(InUse, match=service),
        supervise(stand_ins.spec("child")),
    ):
        pytest.fail("the block is entered")

    assert not (stand_ins.folder / "child.pid").exists()
    HomeLock(settings.home).acquire()


def test_keys_are_made_and_their_file_is_named_but_no_key(
    supervise: Supervise, settings: Settings, output: io.StringIO
) -> None:
    with supervise():
        pass

    file = settings.home / "serving" / "inference-keys.json"
    assert str(file) in output.getvalue()
    assert file.stat().st_mode & 0o777 == 0o600
    assert not any(word in output.getvalue() for word in file.read_text().split('"') if len(word) > 20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_is_an_interrupt_inside_the_block_only(
    supervise: Supervise, stand_ins: StandIns, number: signal.Signals
) -> None:
    before = signal.getsignal(number)

    with pytest.raises(KeyboardInterrupt) as stopped, supervise(stand_ins.spec("child")):
        child = stand_ins.process("child")
        signal.raise_signal(number)

    assert is_gone(child)
    assert stopped.value.args == (number,)
    assert signal.getsignal(number) == before


def test_a_second_signal_does_not_cut_the_stop_short(
    supervise: Supervise, stand_ins: StandIns, output: io.StringIO
) -> None:
    command, log = stand_ins.command("child"), stand_ins.folder / "child.log"
    spec = ChildSpec("child", lambda: command, log, before_stop=lambda: signal.raise_signal(signal.SIGINT))

    with pytest.raises(KeyboardInterrupt), supervise(spec):
        child = stand_ins.process("child")
        signal.raise_signal(signal.SIGINT)

    assert is_gone(child)
    assert "waiting for every process to end" in output.getvalue()


SUPERVISE = """
import pathlib, sys, time
from rich.console import Console
from gpu_assets.cli.children import ChildSpec
from gpu_assets.cli.supervisor import Supervisor
from gpu_assets.settings import load_settings
spec = ChildSpec("child", lambda: sys.argv[2:], pathlib.Path(sys.argv[1]), kill_after_s=2)
with Supervisor(load_settings(), {}, Console(), [spec]):
    time.sleep(600)
"""


def test_nothing_is_left_when_the_supervisor_itself_is_killed_and_the_home_is_held_until_then(
    settings: Settings, stand_ins: StandIns
) -> None:
    child = stand_ins.command("child", stand_ins.parent("orphan") + WAITS)
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(stand_ins.folder / "child.log"), *child], cwd=PROJECT_ROOT
    )
    processes = [stand_ins.process("child"), stand_ins.process("orphan")]

    supervisor.kill()
    supervisor.wait(60)
    with pytest.raises(InUse, match=f"process {supervisor.pid}, which was killed, had started and which is ending now"):
        HomeLock(settings.home).acquire()

    wait_until(lambda: all(is_gone(process) for process in processes), "what was started is gone")
    wait_until(lambda: can_lock(settings.home), "the home is free")


def can_lock(home: Path) -> bool:
    try:
        HomeLock(home).acquire()
    except InUse:
        return False
    return True
