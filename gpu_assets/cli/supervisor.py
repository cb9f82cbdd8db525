"""The platform as processes: the inference server and Dagster, started, watched and stopped together.

    with Supervisor(settings, overrides, console) as platform:
        platform.wait_healthy()
        while True:
            platform.watch_once()
            time.sleep(0.5)

Leaving the block, however it is left, ends every child and waits until all their descendants are gone.
SIGTERM and SIGHUP raise KeyboardInterrupt inside the block, as Ctrl-C does; `describe_stop` says which it was.
"""

import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console

from gpu_assets.cli.children import Child, ChildSpec
from gpu_assets.cli.home import HomeLock, link_instance_config
from gpu_assets.cli.ports import require_free_port
from gpu_assets.cli.services import platform_children
from gpu_assets.errors import ServiceUnavailable
from gpu_assets.settings import Settings
from resources.keys import inference_keys, key_file
from resources.workspace import Workspace

RESTARTS = 3
RESTART_PAUSE_S = 1.0
LOOK_EVERY_S = 0.5
ASK_EVERY_S = 5.0
HEALTHY_WITHIN_S = 180.0
SERVICES = ("inference", "dagster")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """A platform that runs while its block does.

    Args:
        overrides: as given to `load_settings`; children get them as variables.
        specs: other children than the platform's, for tests.
    """

    def __init__(
        self,
        settings: Settings,
        overrides: dict[str, str],
        console: Console,
        specs: Sequence[ChildSpec] | None = None,
    ) -> None:
        self.settings = settings
        self.overrides = overrides
        self.workspace = Workspace(settings.home)
        self.children: list[Child] = []
        self._console = console
        self._specs = platform_children(settings, overrides) if specs is None else specs
        self._cleanup = ExitStack()
        self._asked_at = 0.0

    def __enter__(self) -> Self:
        """Prepare the home and start the children, in order.

        Raises:
            InUse: if the home or a port is held by another process.
            SettingsError: if a key file or an address is wrong.
        """
        with ExitStack() as stack:
            self._catch_signals(stack)
            self._prepare(stack)
            for child in self.children:
                stack.callback(child.stop)
                child.start()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def urls(self) -> dict[str, str]:
        """Base URLs by service."""
        return {service: self.settings.hosts.url(service) for service in SERVICES}

    def wait_healthy(self, timeout_s: float = HEALTHY_WITHIN_S) -> None:
        """Wait until every child is healthy, restarting those that die.

        Raises:
            ServiceUnavailable: if one is not healthy in time, died too often, or cannot become healthy.
        """
        deadline = time.monotonic() + timeout_s
        with self._console.status("starting") as status:
            while missing := self._missing():
                if time.monotonic() > deadline:
                    logs = ", ".join(str(child.spec.log_file) for child in self.children)
                    raise ServiceUnavailable(f"after {timeout_s:g} s: {missing}; logs: {logs}")
                status.update(missing)
                time.sleep(LOOK_EVERY_S)
                self.watch_once()

    def watch_once(self) -> None:
        """Restart the children that have ended, or run and are of no use, each at most `RESTARTS` times.

        Whether those that run are of use is asked every `ASK_EVERY_S`.

        Raises:
            ServiceUnavailable: when a child has ended once more than that.
        """
        asks = time.monotonic() - self._asked_at >= ASK_EVERY_S
        for child in self.children:
            if (ended := child.ended()) is not None:
                self._restart(child, f"ended with {ended}")
            elif asks and (dead := child.spec.is_dead()) is not None:
                self._restart(child, f"runs, but {dead},")
        if asks:
            self._asked_at = time.monotonic()

    def _restart(self, child: Child, what: str) -> None:
        """Start a child again, or give up; one that still runs is ended first."""
        child.deaths += 1
        name, log = child.spec.name, child.spec.log_file
        if child.deaths > RESTARTS:
            raise ServiceUnavailable(
                f"{name} {what.rstrip(',')}, and was started again {RESTARTS} times before; "
                f"everything is stopped; its log: {log}"
            )
        self._say(f"{name} {what} and is started again, {child.deaths} of {RESTARTS}; its log: {log}.1")
        time.sleep(RESTART_PAUSE_S)
        child.start()

    def stop(self) -> None:
        """End every child, the last started first, and wait until all their descendants are gone."""
        self._cleanup.close()

    def _prepare(self, stack: ExitStack) -> None:
        self.workspace.create()
        lock = HomeLock(self.settings.home)
        descriptor = lock.acquire()
        stack.callback(lock.release)
        for service in SERVICES:
            require_free_port(self.settings.hosts, service)
        if note := link_instance_config(self.workspace):
            self._say(note)
        inference_keys(self.settings)
        if key_file(self.settings).exists():
            self._say(f"keys of the inference server: {key_file(self.settings)}")
        self.children = [Child(spec, descriptor) for spec in self._specs]

    def _missing(self) -> str:
        """What is not healthy yet, for a person; empty when all is."""
        waits = ((child.spec.name, child.spec.waits_for()) for child in self.children)
        return "; ".join(f"{name} waits for {what}" for name, what in waits if what is not None)

    def _catch_signals(self, stack: ExitStack) -> None:
        """Stop signals raise KeyboardInterrupt until the stop begins; a second one then cannot cut it short.

        SIGHUP stays ignored where it was, as under nohup. Other threads than the main one get no signals.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOP_SIGNALS:
            before = signal.getsignal(number)
            if number == signal.SIGHUP and before == signal.SIG_IGN:
                continue
            stack.callback(signal.signal, number, before)
            signal.signal(number, self._interrupt)

    def _interrupt(self, received: int, _frame: FrameType | None) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        raise KeyboardInterrupt(signal.Signals(received))

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._say("stopping: waiting for every process to end")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def describe_stop(stop: KeyboardInterrupt) -> str:
    """`stopped by Ctrl-C`, or by the signal's name."""
    number = stop.args[0] if stop.args else signal.SIGINT
    return f"stopped by {'Ctrl-C' if number == signal.SIGINT else number.name}"
