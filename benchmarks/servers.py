"""Server processes for benchmarks: ours, `transformers serve`, and two that show what our own server costs.

    python -m benchmarks.servers ours|bare FOLDER PORT

`ours` is our application with an engine that answers at once; `bare` is FastAPI on uvicorn that reads the same
request as JSON and answers as many bytes.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from gpu_assets.settings import PROJECT_ROOT, load_settings
from resources import keeper
from serving.inference.engine import EngineStats, Generation, Tokens

START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 15
KEY = "the-key-of-the-benchmark"
ADMIN_KEY = "the-admin-key-of-the-benchmark"
FAKE_ANSWER = list(range(20, 40))


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    port: int
    pid: int
    model: str
    started_s: float

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"


@dataclass(frozen=True)
class PeerOptions:
    """How `transformers serve` cuts up its cache and its batches; how many requests a batch holds is no option of it.

    Only whole pages are shared between requests that begin alike.
    """

    page_tokens: int = 256
    batch_tokens: int | None = None

    def __str__(self) -> str:
        return " ".join(self.arguments)

    @property
    def arguments(self) -> list[str]:
        page = ["--cb-block-size", str(self.page_tokens)]
        return page if self.batch_tokens is None else [*page, "--cb-max-batch-tokens", str(self.batch_tokens)]


PEER_OPTIONS = (PeerOptions(), PeerOptions(32), PeerOptions(32, 2048), PeerOptions(32, 256))
"""Its defaults; our size of a page; the same in batches that hold any of our waves, and in ours of a CPU."""


@contextmanager
def our_server(folder: Path, work: Path, threads: int, **settings: str) -> Iterator[Running]:
    """`python -m serving.inference` with a home of its own under `work`."""
    port = free_port()
    command = ["-m", "serving.inference", "--host", "localhost", "--port", str(port), "--model", str(folder)]
    environment = {
        "GPU_ASSETS_HOME": str(work / "home"),
        "INFERENCE_READ_KEY": KEY,
        "INFERENCE_ADMIN_KEY": ADMIN_KEY,
        **settings,
    }
    with _serving(
        [sys.executable, *command], port, "champion", "/ready", threads, work / "ours.log", environment
    ) as running:
        yield running


@contextmanager
def transformers_serve(
    folder: Path, work: Path, threads: int, cache_tokens: int, options: PeerOptions
) -> Iterator[Running]:
    """`transformers serve --continuous-batching`, offline, with as large a cache as ours."""
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    command = [str(program), "serve", str(folder), "--continuous-batching", "--host", "localhost", "--port", str(port)]
    command += ["--cb-num-blocks", str(cache_tokens // options.page_tokens), *options.arguments]
    environment = {"HF_HUB_OFFLINE": "1"}
    with _serving(command, port, str(folder), "/health", threads, work / "transformers.log", environment) as running:
        yield running


@contextmanager
def vllm_serve(program: Path, folder: Path, work: Path, threads: int, max_context: int) -> Iterator[Running]:
    """vLLM with its own defaults, but for the length of a request."""
    port = free_port()
    command = [str(program), "serve", str(folder), "--host", "localhost", "--port", str(port)]
    command += ["--max-model-len", str(max_context), "--disable-uvicorn-access-log"]
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": ""}
    with _serving(command, port, str(folder), "/health", threads, work / "vllm.log", environment) as running:
        yield running


@contextmanager
def fake_server(kind: str, folder: Path, work: Path) -> Iterator[Running]:
    """This module as a process."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.servers", kind, str(folder), str(port)]
    environment = {"GPU_ASSETS_HOME": str(work / "home")}
    with _serving(
        command, port, "champion", "/ready" if kind == "ours" else "/health", 1, work / f"{kind}.log", environment
    ) as running:
        yield running


@contextmanager
def _serving(
    command: list[str], port: int, model: str, path: str, threads: int, log: Path, environment: dict[str, str]
) -> Iterator[Running]:
    begun = time.monotonic()
    variables = os.environ | environment | {"OMP_NUM_THREADS": str(threads)}
    keep = [sys.executable, "-m", keeper.__name__, str(STOP_TIMEOUT_S)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*keep, *command], stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=PROJECT_ROOT, env=variables
        )
    assert process.stdin is not None
    try:
        _wait(process, f"http://localhost:{port}{path}", log)
        (server,) = psutil.Process(process.pid).children()
        yield Running(port, server.pid, model, time.monotonic() - begun)
    finally:
        process.stdin.close()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args!r} does not serve; its log ends:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


class FakeEngine:
    """Answers at once, always the same."""

    max_context_tokens = 2048
    memory_bytes = None
    alive = True

    def start(self) -> None:
        return

    def stop(self) -> None:
        return

    def stats(self) -> EngineStats:
        return EngineStats(running=0, waiting=0)

    async def generate(self, generation: Generation) -> AsyncGenerator[Tokens, None]:
        yield Tokens(FAKE_ANSWER[: generation.max_tokens], ended=True, first_token_s=0.0)


def _ours(folder: Path) -> Any:
    from resources.keys import InferenceKeys
    from serving.inference.app import create_app

    return create_app(load_settings(), InferenceKeys.of(KEY, ADMIN_KEY), folder, lambda _: FakeEngine())


def _bare() -> Any:
    from fastapi import FastAPI, Request
    from starlette.responses import JSONResponse, Response

    app = FastAPI()
    answer = {"id": "x" * 40, "choices": [{"message": {"role": "assistant", "content": "y" * 60}}], "usage": {"n": 1}}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/chat/completions")
    async def echo(request: Request) -> Response:
        asked = json.loads(await request.body())
        return JSONResponse({**answer, "model": asked["model"]})

    return app


if __name__ == "__main__":
    import uvicorn

    from serving.inference.connections import server_config

    kind, model_folder, listen_port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if kind == "bare":
        uvicorn.run(_bare(), host="localhost", port=listen_port, access_log=False, log_level="warning")
    else:
        config = server_config(_ours(model_folder), load_settings().serving, grace_s=3)
        config.host, config.port = "localhost", listen_port
        uvicorn.Server(config).run()
