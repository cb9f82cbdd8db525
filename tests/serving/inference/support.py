"""Models with manifests, a server process, and a scripted engine for what a real one does too rarely."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import openai
from fastapi import FastAPI
from tokenizers import Tokenizer

from gpu_assets.base_model.tiny import write_tiny_model
from gpu_assets.rendering import Renderer
from gpu_assets.settings import PROJECT_ROOT
from resources.artifacts import weights_sha256, write_json
from resources.services import InferenceClient
from serving.inference.engine import (
    Engine,
    EngineStats,
    EngineStopped,
    Generation,
    TokenLogprob,
    TokenLogprobs,
    Tokens,
)
from serving.inference.loader import ModelFolder

if TYPE_CHECKING:  # It loads torch.
    from serving.inference.transformers_engine import TransformersEngine

Result = TypeVar("Result")

READ_KEY, ADMIN_KEY = "read-key-of-the-tests", "admin-key-of-the-tests"
START_TIMEOUT_S = 60
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
QUESTION: list[Any] = [{"role": "user", "content": "add ①⓪ and ①"}]
VALID: dict[str, Any] = {"model": "champion", "messages": QUESTION, "max_tokens": 4, "temperature": 0}


def write_talkative_model(folder: Path, seed: int) -> None:
    """A tiny model with large weights: an untrained one repeats its last token, whatever its seed."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True)
    write_tiny_model(folder, seed)
    path = folder / "model.safetensors"
    weights = {name: weight * 10 if "proj" in name else weight for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def write_model(folder: Path, seed: int, step: int | None = None) -> Path:
    """A tiny model with the manifest of a checkpoint at a step, or of a base model."""
    write_talkative_model(folder, seed)
    return write_manifest(folder, "plain", step)


def write_manifest(folder: Path, profile: str, step: int | None = None) -> Path:
    """As a checkpoint at a step, or a base model, that is prompted with this profile."""
    renderer = Renderer.load(folder, profile)
    manifest: dict[str, Any] = {
        "kind": "base_model" if step is None else "checkpoint",
        "format": 1,
        "name": folder.name,
        "weights_sha256": weights_sha256(folder),
        "architecture": "Qwen3ForCausalLM",
        "renderer": {
            "digest": renderer.digest,
            "template_sha256": renderer.template_sha256,
            "profile": {"name": profile, "version": renderer.profile.version},
            "system_prompt": None,
        },
    }
    if step is not None:
        manifest["step"] = step
    write_json(folder / "manifest.json", manifest)
    return folder


Inspect = Callable[[Path], ModelFolder]
StartEngine = Callable[..., "TransformersEngine"]
Check = Callable[[httpx.AsyncClient], Awaitable[None]]
Serve = Callable[[Check], None]


@dataclass(frozen=True)
class Models:
    """Folders whose answers differ; read-only by convention, `copy` gives one to spoil."""

    first: Path
    second: Path
    third: Path
    plain: Path


@dataclass
class Server:
    """A server process; `output` is its stdout and stderr."""

    process: "subprocess.Popen[str]"
    url: str
    output: Path
    home: Path
    closing: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def client(self) -> InferenceClient:
        client = InferenceClient("inference server", self.url, ADMIN_KEY, timeout_s=30)
        self.closing.callback(client.close)
        return client

    def openai(self, key: str = READ_KEY) -> openai.OpenAI:
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)
        self.closing.callback(client.close)
        return client

    def request(self, method: str, path: str, key: str | None = ADMIN_KEY, **arguments: Any) -> httpx.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        headers |= arguments.pop("headers", {})
        return httpx.request(method, self.url + path, headers=headers, timeout=30, trust_env=False, **arguments)

    def wait_loaded(self) -> None:
        """Wait until no first model is on its way any more."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while is_loading(self.request("GET", "/ready", key=None)):
            if time.monotonic() > deadline:
                raise TimeoutError(self.output.read_text())
            time.sleep(0.05)

    def stop(self) -> int:
        """SIGTERM, and the exit code; SIGKILL if that is not enough."""
        self.closing.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def start_server(
    folder: Path,
    *arguments: str,
    read_key: str | None = READ_KEY,
    admin_key: str | None = ADMIN_KEY,
    serving: Mapping[str, object] | None = None,
) -> Server:
    """`python -m serving.inference` on a free port, with a home and a log under `folder`.

    Args:
        serving: fields of the section, other than shipped.
    """
    home, output = folder / "home", folder / "server.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GPU_ASSETS_", "INFERENCE_"))}
    keys = {"INFERENCE_READ_KEY": read_key, "INFERENCE_ADMIN_KEY": admin_key}
    environment = {
        **kept,
        **{name: key for name, key in keys.items() if key is not None},
        **{f"GPU_ASSETS_SERVING__{name.upper()}": str(value) for name, value in (serving or {}).items()},
        "GPU_ASSETS_HOME": str(home),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "serving.inference", "--host", "127.0.0.1", "--port", "0", *arguments]
    with output.open("w") as log:
        process = subprocess.Popen(
            command, cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    return Server(process, _announced_url(process, output), output, home)


def is_loading(ready: httpx.Response) -> bool:
    return ready.status_code == 503 and ready.json()["error"]["code"] == "model_loading"


@asynccontextmanager
async def started(app: FastAPI) -> AsyncIterator[None]:
    """The application in this process, once its first model is served."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            async with asyncio.timeout(START_TIMEOUT_S):
                while is_loading(await client.get("/ready")):
                    await asyncio.sleep(0.005)
        yield


def _announced_url(process: "subprocess.Popen[str]", output: Path) -> str:
    """The URL that the server prints, or an empty text if it ends before."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None:
        lines = output.read_text().splitlines()
        found = [line.removeprefix("listening on ") for line in lines if line.startswith("listening on ")]
        if found:
            return found[0]
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise TimeoutError(output.read_text())
        time.sleep(0.05)
    return ""


@contextmanager
def ready_server(folder: Path, *arguments: str, **options: Any) -> Iterator[Server]:
    """A server as `start_server` starts it, once its first model is served, or there is none; stopped at the end."""
    started = start_server(folder, *arguments, **options)
    try:
        started.wait_loaded()
        yield started
    finally:
        started.stop()


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(coroutine, timeout=60))


async def generate(engine: Engine, generation: Generation) -> list[int]:
    return [token async for tokens in engine.generate(generation) for token in tokens.ids]


async def generate_all(engine: Engine, generations: list[Generation]) -> list[list[int]]:
    return await asyncio.gather(*(generate(engine, generation) for generation in generations))


@dataclass
class ScriptedEngine:
    """An engine that gives everyone the same tokens, and stops, dies or queues when a test says so.

    `endless` gives the first token until the request is cancelled; `stepwise` gives a token at a time; `broken` is
    dead after every start.
    """

    token_ids: list[int]
    max_context_tokens: int = 512
    memory_bytes: int | None = None
    waiting: int = 0
    running: int = 0
    alive: bool = False
    stopped: bool = False
    dies_midway: bool = False
    broken: bool = False
    endless: bool = False
    stepwise: bool = False
    asked: list[Generation] = field(default_factory=list)

    @property
    def last_max_tokens(self) -> int:
        return self.asked[-1].max_tokens

    def start(self) -> None:
        self.alive = not self.broken

    def stats(self) -> EngineStats:
        return EngineStats(running=self.running, waiting=self.waiting)

    def stop(self) -> None:
        self.alive = False
        self.stopped = True

    async def generate(self, generation: Generation) -> AsyncGenerator[Tokens, None]:
        self.asked.append(generation)
        if not self.alive:
            raise EngineStopped("the scripted engine is stopped")
        self.running += 1
        try:
            while self.endless:
                yield self._tokens(generation, self.token_ids[:1], ended=None)
                await asyncio.sleep(0.001)
            if self.dies_midway:
                yield self._tokens(generation, self.token_ids[:1], ended=None)
                raise EngineStopped("the scripted engine died")
            *before, last = [[token] for token in self.token_ids] if self.stepwise else [self.token_ids]
            for ids in before:
                yield self._tokens(generation, ids, ended=None)
            yield self._tokens(generation, last, ended=True)
        finally:
            self.running -= 1

    def _tokens(self, generation: Generation, ids: list[int], ended: bool | None) -> Tokens:
        return Tokens(ids, ended, first_token_s=0.0, logprobs=scripted_logprobs(ids, generation.top_logprobs))


def scripted_logprobs(ids: list[int], top: int | None) -> tuple[TokenLogprobs, ...]:
    """Each token is the likeliest, the ids after it follow."""
    if top is None:
        return ()
    return tuple(
        TokenLogprobs(TokenLogprob(token, -0.5), tuple(TokenLogprob(token + rank, -0.5 - rank) for rank in range(top)))
        for token in ids
    )


def names_no_token(tokenizer: Tokenizer, text: str) -> bool:
    """Whether a text is only text to the tokenizer; generated ones hold constants of the sources now and then."""
    return all(token.content not in text for token in tokenizer.get_added_tokens_decoder().values())


def change_json(path: Path, **changes: Any) -> None:
    """Overwrite keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream that came to its end."""
    assert response.status_code == 200, response.text
    *events, done = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert done == "[DONE]"
    return [json.loads(each) for each in events]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, and nothing beside it."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error
