"""One vLLM server as a child process: started under a keeper, watched from a thread, ended with all it started.

It listens on a Unix socket in a folder that only this user may enter, and on no port: vLLM's own key guards
`/v1` and leaves `/invocations`, which generates too, `/metrics` and others open. The keeper ends it when this process
is gone, SIGKILL included. A server that hangs is killed, so that whoever reads from it is told, and so is one that is
no longer watched. Knows nothing of requests.
"""

import asyncio
import logging
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from gpu_assets.settings import PROJECT_ROOT, environment_with
from resources import keeper
from serving.inference.engine import EngineStats, EngineStopped

logger = logging.getLogger(__name__)

Command = Callable[[Path], list[str]]
"""The command that serves on a socket."""

BASE_URL = "http://vllm"
"""What the Host header says; the socket decides who is asked."""
POLL_S = 0.5
POLL_TIMEOUT_S = 5.0
MISSED_POLLS = 4
KILL_AFTER_S = 9.0
LOG_TAIL_BYTES = 4096
_GAUGE = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE
)


class VllmProcess:
    """Runs between `start` and `stop`, once; `name` is the model's, in messages."""

    def __init__(self, name: str, command: Command, log_file: Path, start_timeout_s: float) -> None:
        self.key = secrets.token_urlsafe(32)
        self.stats = EngineStats(running=0, waiting=0)
        self._name = name
        self._command = command
        self._log_file = log_file
        self._start_timeout_s = start_timeout_s
        self._folder = Path(tempfile.mkdtemp(prefix="gpu-assets-"))
        self._keeper: subprocess.Popen[bytes] | None = None
        self._watcher = threading.Thread(target=self._watch, name=f"vllm of {name}", daemon=True)
        self._stopping = threading.Event()
        self._ready = False
        self._problem: str | None = None

    @property
    def socket(self) -> Path:
        return self._folder / "socket"

    @property
    def problem(self) -> str | None:
        """Why it is of no use, or None: it starts or serves."""
        if self._problem is None and self._keeper is not None and (code := self._keeper.poll()) is not None:
            self._problem = f"the vllm process of {self._name} ended with {_exit(code)}; {self._last_words()}"
        return self._problem

    @property
    def pid(self) -> int | None:
        """The keeper's."""
        return None if self._keeper is None else self._keeper.pid

    def start(self) -> None:
        """Start the process and the thread that watches it. Returns at once."""
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        environment = environment_with(
            VLLM_API_KEY=self.key,
            VLLM_NO_USAGE_STATS="1",
            HF_HUB_OFFLINE="1",
            PYTHONPATH=None,
            INFERENCE_READ_KEY=None,
            INFERENCE_ADMIN_KEY=None,
        )
        keep = [sys.executable, "-m", keeper.__name__, str(KILL_AFTER_S)]
        with self._log_file.open("wb") as log:
            self._keeper = subprocess.Popen(
                [*keep, *self._command(self.socket)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=PROJECT_ROOT,
                env=environment,
                process_group=0,
            )
        self._watcher.start()

    async def until_ready(self) -> None:
        """Wait until it answers.

        Raises:
            EngineStopped: if it is dead, was never started, or did not answer in time.
        """
        while not self._ready or self.problem is not None:
            if self._keeper is None or self._stopping.is_set():
                raise EngineStopped(f"the vllm process of {self._name} is not running; it takes no requests")
            if self.problem is not None:
                raise EngineStopped(self.problem)
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        """End the process and wait until all its descendants are gone: `KILL_AFTER_S` and a little at most."""
        self._stopping.set()
        if self._keeper is not None:
            self._release()
            self._keeper.wait()
            self._problem = self._problem or f"the vllm process of {self._name} was stopped; it takes no requests"
            self._watcher.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self) -> None:
        try:
            self._poll()
        except Exception as error:
            logger.exception("the watcher of the vllm process of %s ended", self._name)
            self._give_up(f"is no longer watched, so that a hang would not be noticed: {error!r}")

    def _poll(self) -> None:
        """Ask it again and again, until it stops, dies or hangs."""
        begun, missed = time.monotonic(), 0
        transport = httpx.HTTPTransport(uds=str(self.socket))
        with httpx.Client(transport=transport, base_url=BASE_URL, timeout=POLL_TIMEOUT_S) as client:
            while not self._stopping.wait(POLL_S if self._ready else POLL_S / 5) and self.problem is None:
                healthy = self._ask(client)
                missed = 0 if healthy else missed + 1
                self._ready = self._ready or healthy
                waited = time.monotonic() - begun
                if not self._ready and waited > self._start_timeout_s:
                    self._give_up(f"did not answer within {self._start_timeout_s:g} s; {self._last_words()}")
                if self._ready and missed >= MISSED_POLLS:
                    self._give_up(f"has not answered /health {missed} times; {self._last_words()}")

    def _ask(self, client: httpx.Client) -> bool:
        """Whether it is healthy; its figures are noted, and stay as they were where they cannot be read."""
        try:
            if not self._listens() or client.get("/health").status_code != httpx.codes.OK:
                return False
            metrics = client.get("/metrics").text
        except (httpx.HTTPError, OSError):
            return False
        try:
            self.stats = _stats(metrics)
        except (ValueError, OverflowError) as error:
            logger.warning("the vllm process of %s has a gauge that is no number: %s", self._name, error)
        return True

    def _listens(self) -> bool:
        """Asked first, since httpcore leaves a socket open where nobody does."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def _give_up(self, why: str) -> None:
        self._problem = f"the vllm process of {self._name} {why}"
        logger.error("%s", self._problem)
        self._release()

    def _release(self) -> None:
        """The keeper ends the process when this pipe closes."""
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()

    def _last_words(self) -> str:
        try:
            with self._log_file.open("rb") as log:
                log.seek(max(0, self._log_file.stat().st_size - LOG_TAIL_BYTES))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError as error:
            return f"{self._log_file} cannot be read ({error.strerror})"
        said = [line.strip() for line in lines if line.strip()]
        return f"{self._log_file} ends: {said[-1]}" if said else f"{self._log_file} is empty"


def _stats(metrics: str) -> EngineStats:
    """The gauges in a text of Prometheus.

    Raises:
        ValueError: if one is no number.
        OverflowError: if one is infinite.
    """
    figures = dict(_GAUGE.findall(metrics))
    return EngineStats(
        running=int(float(figures.get("num_requests_running", 0))),
        waiting=int(float(figures.get("num_requests_waiting", 0))),
        cache_use=float(figures.get("kv_cache_usage_perc", 0)),
    )


def _exit(code: int) -> str:
    """A keeper reports signal n as 128 + n."""
    return f"signal {code - 128}" if code > 128 else f"exit code {code}"
