"""A keeper leaves nothing of its command behind. Real processes throughout."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.cli.stand_ins import STUBBORN, WAITS, StandIns, is_gone, wait_until

Keep = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def keep() -> Iterator[Keep]:
    keepers: list[subprocess.Popen[str]] = []

    def start(command: list[str], kill_after_s: float = 30) -> "subprocess.Popen[str]":
        keeper = subprocess.Popen(
            [sys.executable, "-m", "resources.keeper", str(kill_after_s), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        keepers.append(keeper)
        return keeper

    yield start
    for keeper in keepers:
        keeper.kill()
        keeper.communicate()


@pytest.mark.parametrize(
    ("program", "code"), [("sys.exit(3)", 3), ("pass", 0), ("os.kill(os.getpid(), 9)", 128 + 9)], ids=repr
)
def test_the_exit_code_is_the_commands(keep: Keep, stand_ins: StandIns, program: str, code: int) -> None:
    assert keep(stand_ins.command("child", program)).wait(60) == code


def test_a_command_that_does_not_exist_is_named(keep: Keep) -> None:
    keeper = keep(["no-such-command"])

    output, _ = keeper.communicate(timeout=60)

    assert keeper.returncode == 127
    assert "no-such-command cannot be started" in output


def test_the_command_is_interrupted_when_the_input_closes(keep: Keep, stand_ins: StandIns) -> None:
    keeper = keep(stand_ins.command("child"))
    child = stand_ins.process("child")

    output, _ = keeper.communicate(timeout=60)

    assert keeper.returncode == 128 + signal.SIGINT or "KeyboardInterrupt" in output
    assert is_gone(child)


def test_a_descendant_in_another_session_that_ignores_signals_is_killed(keep: Keep, stand_ins: StandIns) -> None:
    keeper = keep(stand_ins.command("child", stand_ins.parent("orphan") + WAITS), kill_after_s=1)
    child, orphan = stand_ins.process("child"), stand_ins.process("orphan")

    keeper.communicate(timeout=60)

    assert is_gone(child)
    assert is_gone(orphan)


def test_what_a_command_leaves_running_at_its_end_is_ended(keep: Keep, stand_ins: StandIns) -> None:
    leaves = stand_ins.parent("orphan") + stand_ins.wait_for("orphan") + "sys.exit(4)"
    keeper = keep(stand_ins.command("child", leaves), kill_after_s=1)

    assert keeper.wait(60) == 4
    assert not psutil.pid_exists(stand_ins.pid("orphan"))


def test_sigterm_ends_what_ignores_only_sigint(keep: Keep, stand_ins: StandIns) -> None:
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    keeper = keep(stand_ins.command("child", first=deaf), kill_after_s=3)
    stand_ins.process("child")

    keeper.communicate(timeout=60)

    assert keeper.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_keeper_ends_the_command(keep: Keep, stand_ins: StandIns, number: signal.Signals) -> None:
    keeper = keep(stand_ins.command("child"))
    child = stand_ins.process("child")

    keeper.send_signal(number)
    keeper.wait(60)

    assert is_gone(child)


def test_the_command_gets_sigint_at_its_default_though_the_starter_ignores_it(stand_ins: StandIns) -> None:
    keeper = [sys.executable, "-m", "resources.keeper", "5", *stand_ins.command("child")]
    started = subprocess.Popen(
        [sys.executable, "-c", STUBBORN + f"import subprocess; subprocess.call({keeper!r})"], stdin=subprocess.PIPE
    )
    child = stand_ins.process("child")

    child.send_signal(signal.SIGINT)

    wait_until(lambda: is_gone(child), "SIGINT ends the command")
    assert started.wait(60) == 0
    assert started.stdin is not None
    started.stdin.close()


def test_when_the_keeper_itself_is_killed_the_command_is_asked_to_end(keep: Keep, stand_ins: StandIns) -> None:
    keeper = keep(stand_ins.command("child"))
    child = stand_ins.process("child")

    keeper.kill()

    wait_until(lambda: is_gone(child), "the command ends after its keeper")
