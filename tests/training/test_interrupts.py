"""Signals that wait until training is at a place to end, in real processes where they end one."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from gpu_assets.errors import TrainingStopped
from gpu_assets.settings import PROJECT_ROOT
from gpu_assets.training import interrupts
from gpu_assets.training.interrupts import Interrupts


class Interrupted(BaseException):
    """What a host of the training raises on a signal, as Dagster does."""


@pytest.fixture(autouse=True)
def host_handler() -> Iterator[None]:
    """Both signals raise at once, as inside a Dagster step."""

    def raise_at_once(*_: object) -> None:
        raise Interrupted

    before = {number: signal.signal(number, raise_at_once) for number in interrupts.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_is_noted_and_handed_on_when_training_says_so(number: signal.Signals) -> None:
    with pytest.raises(Interrupted), Interrupts() as caught:
        assert not caught.requested
        os.kill(os.getpid(), number)
        assert caught.requested
        caught.deliver()


def test_a_signal_in_the_last_step_is_handed_on_at_the_end() -> None:
    done = False
    with pytest.raises(Interrupted), Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        done = True
    assert done


def test_the_second_signal_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "SAME_STOP_S", 0.0)
    reached = []
    with pytest.raises(Interrupted), Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("first")
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("second")
    assert reached == ["first"]


def test_the_same_stop_that_arrives_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "SAME_STOP_S", 600.0)
    with pytest.raises(Interrupted), Interrupts() as caught:
        for number in interrupts.SIGNALS:
            os.kill(os.getpid(), number)
        assert caught.requested
        caught.deliver()


def test_where_the_host_lets_the_process_go_on_training_ends_with_an_error() -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    with pytest.raises(TrainingStopped, match="SIGTERM"), Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)


def test_of_several_processes_one_that_came_too_late_to_be_agreed_on_ends_nothing() -> None:
    with Interrupts(alone=False) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught.requested


def test_a_process_ends_with_an_error_when_it_was_another_one_that_got_the_signal() -> None:
    with pytest.raises(TrainingStopped, match="another process of this training"), Interrupts(alone=False) as caught:
        caught.deliver()


def test_an_error_in_training_is_not_hidden_by_the_signal_that_came_before() -> None:
    with pytest.raises(ZeroDivisionError), Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError


def test_what_is_ignored_stays_ignored_and_all_is_as_before_afterwards() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate = signal.getsignal(signal.SIGTERM)
    with Interrupts() as caught:
        os.kill(os.getpid(), signal.SIGINT)
        assert not caught.requested
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == (signal.SIG_IGN, terminate)
    signal.signal(signal.SIGINT, before)


def test_in_another_thread_than_the_main_one_signals_are_left_alone() -> None:
    found = []

    def inside() -> None:
        with Interrupts() as caught:
            found.append((caught.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join(10)
    assert found == [(False, signal.getsignal(signal.SIGTERM))]


PLAIN = """
import os, signal
from gpu_assets.training.interrupts import Interrupts
with Interrupts() as caught:
    os.kill(os.getpid(), signal.SIGTERM)
    print("saved" if caught.requested else "lost", flush=True)
    caught.deliver()
print("not reached")
"""


def test_a_plain_process_saves_and_then_dies_of_the_signal() -> None:
    done = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, timeout=60, cwd=PROJECT_ROOT)
    assert (done.stdout, done.returncode) == ("saved\n", -signal.SIGTERM)


SWALLOWED = """
import os, signal, sys

class Interrupted(BaseException): ...

def raise_at_once(*_): raise Interrupted

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "accelerate":
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except BaseException:
                print("swallowed")

signal.signal(signal.SIGTERM, raise_at_once)
sys.meta_path.insert(0, Finder())
from gpu_assets.training.run import load_libraries
try:
    load_libraries()
except Interrupted:
    print("ended", "gpu_assets.training.loop" in sys.modules)
"""


def test_a_signal_while_the_libraries_are_imported_cannot_be_swallowed_by_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=120, cwd=PROJECT_ROOT
    )
    assert done.stdout == "ended True\n", done.stderr
