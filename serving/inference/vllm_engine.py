"""The engine for GPUs with many users: vLLM in a virtual environment and a process of its own, one for one version.

Prompts go in as token ids and tokens come back as ids, with the parameters under vLLM's names; its prefix cache dies
with its process, so it is never shared across versions. What a data profile does to logits is Python in our process,
so checkpoints with such a profile are refused. Needs no torch here.
"""

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gpu_assets.errors import ArtifactInvalid, PlatformError, SettingsError
from gpu_assets.settings import Serving, Settings
from serving.inference.engine import (
    EngineStats,
    EngineStopped,
    Generation,
    GenerationFailed,
    GenerationRefused,
    GrammarError,
    TokenLogprob,
    TokenLogprobs,
    Tokens,
)
from serving.inference.loader import CONFIG_FILE, ModelFolder
from serving.inference.memory import BYTES, Precision, cache_numbers, needed_bytes
from serving.inference.vllm_process import BASE_URL, Command, VllmProcess

GENERATION_CONFIG_FILE = "generation_config.json"
MAX_TOP_LOGPROBS = 20
PRECISION: Precision = "bf16"
TOKEN_ID = "token_id:"
"""How vLLM writes a token where it is asked for ids."""


def vllm_program(settings: Settings) -> Path:
    """The `vllm` of its virtual environment.

    Raises:
        SettingsError: if it is not installed.
    """
    venv = vllm_venv(settings)
    program = venv / "bin" / "vllm"
    if not program.is_file():
        raise SettingsError(
            f"serving.engine is vllm, but {program} does not exist: run `gpu-assets engine install vllm`, "
            "set serving.vllm.venv, or set serving.engine to hf"
        )
    return program


def vllm_venv(settings: Settings) -> Path:
    """Where vLLM is installed, relative to the home."""
    return settings.home / settings.serving.vllm.venv


def load_engine(folder: ModelFolder, settings: Settings, command: Command | None = None) -> "VllmEngine":
    """An engine of a folder; vLLM loads the weights after `start`.

    Args:
        command: what serves, given the socket; vLLM by default.

    Raises:
        ArtifactInvalid: if the folder's profile steers logits, or its config.json lacks what sizes the cache.
        SettingsError: if vLLM is not installed.
    """
    _refuse_steering(folder)
    serving, config = settings.serving, _read_json(folder.path / CONFIG_FILE)
    positions = int(config.get("max_position_embeddings", serving.max_context_tokens))
    context = min(serving.max_context_tokens, serving.cache_tokens, positions)
    cache_bytes = _cache_bytes(folder, serving)
    if command is None:
        arguments = [str(vllm_program(settings)), *vllm_arguments(folder, serving, context, cache_bytes)]

        def command(socket: Path) -> list[str]:
            return [*arguments, "--uds", str(socket)]

    log_file = settings.home / "logs" / f"vllm-{folder.name}-{folder.weights_sha256[:8]}.log"
    process = VllmProcess(folder.name, command, log_file, serving.vllm.start_timeout_s)
    memory = needed_bytes(folder.path, PRECISION, serving)
    return VllmEngine(process, folder.weights_sha256, _end_ids(folder, config), context, memory)


def vllm_arguments(folder: ModelFolder, serving: Serving, context: int, cache_bytes: int) -> list[str]:
    """What `vllm` is given, but for the socket.

    The cache has a size of its own, so that of the share of memory there remains what vLLM looks for at start.
    Log-probabilities are the model's own, before biases and temperature; what the folder's generation_config.json
    would have sampled with is left out; requests are logged nowhere.
    """
    return [
        "serve",
        str(folder.path),
        *("--served-model-name", folder.weights_sha256),
        *("--dtype", "bfloat16"),
        *("--max-model-len", str(context)),
        *("--max-num-seqs", str(serving.vllm.max_sequences)),
        *("--kv-cache-memory-bytes", str(cache_bytes)),
        *("--gpu-memory-utilization", str(serving.vllm.free_memory_share)),
        *("--generation-config", "vllm"),
        *("--logprobs-mode", "raw_logprobs"),
        *("--max-logprobs", str(MAX_TOP_LOGPROBS)),
        "--enable-prefix-caching",
        "--disable-uvicorn-access-log",
        *serving.vllm.arguments,
    ]


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Problem(msgspec.Struct):
    message: str


class _Chunk(msgspec.Struct):
    """What is needed of an event."""

    choices: list[_Choice] = []
    error: _Problem | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class VllmEngine:
    """An `Engine`; the process runs between `start` and `stop`."""

    def __init__(
        self, process: VllmProcess, model: str, end_ids: list[int], max_context_tokens: int, memory_bytes: int
    ) -> None:
        self._process = process
        self._model = model
        self._end_ids = end_ids
        self._max_context_tokens = max_context_tokens
        self._memory_bytes = memory_bytes

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    @property
    def memory_bytes(self) -> int | None:
        """Weights and cache; vLLM adds its CUDA context, its graphs and its activations."""
        return self._memory_bytes

    @property
    def alive(self) -> bool:
        return self._process.pid is not None and self._process.problem is None

    def start(self) -> None:
        self._process.start()

    async def generate(self, generation: Generation) -> AsyncGenerator[Tokens, None]:
        begun = time.perf_counter()
        await self._process.until_ready()
        first_token_s, kept = 0.0, _Kept()
        try:
            async with aclosing(self._choices(request_body(generation, self._model, self._end_ids))) as choices:
                async for choice in choices:
                    first_token_s = first_token_s or time.perf_counter() - begun
                    kept.take(choice, generation.top_logprobs)
                    if choice.finish_reason is not None or (generation.incremental and kept.ids):
                        ended = None if choice.finish_reason is None else choice.finish_reason == "stop"
                        yield kept.hand_over(ended, first_token_s)
                    if choice.finish_reason is not None:
                        return
        except httpx.TransportError as error:
            raise self._stopped(f"its connection broke: {error!r}") from error
        raise self._stopped("its answer broke off")

    def stats(self) -> EngineStats:
        return self._process.stats

    def stop(self) -> None:
        self._process.stop()

    async def _choices(self, body: Mapping[str, Any]) -> AsyncGenerator[_Choice, None]:
        headers = {"Authorization": f"Bearer {self._process.key}"}
        request = ("POST", "/v1/completions")
        async with self._http() as http, http.stream(*request, json=body, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise self._refused(body, response.status_code, await response.aread())
            async for event in _events(response):
                chunk = _decode_chunk(event)
                if chunk.error is not None:
                    raise GenerationFailed(f"vllm failed on this request: {chunk.error.message}")
                for choice in chunk.choices:
                    if choice.finish_reason == "error":
                        raise GenerationFailed("vllm failed on this request; its log says more")
                    if choice.finish_reason not in (None, "stop", "length"):
                        raise self._stopped(f"it ended the answer with {choice.finish_reason!r}")
                    yield choice

    def _http(self) -> httpx.AsyncClient:
        """A client for one request: a connection to a socket is cheap, and one that is kept may just be closing."""
        transport = httpx.AsyncHTTPTransport(uds=str(self._process.socket), verify=False)
        return httpx.AsyncClient(transport=transport, base_url=BASE_URL, timeout=None)

    def _refused(self, body: Mapping[str, Any], status: int, answer: bytes) -> PlatformError:
        said = answer[:500].decode(errors="replace")
        if status in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY):
            kind = GrammarError if "structured_outputs" in body else GenerationRefused
            return kind(f"vllm refused this request: {said}")
        return self._stopped(f"it answered {status}: {said}")

    def _stopped(self, what: str) -> EngineStopped:
        return EngineStopped(self._process.problem or f"vllm stopped while it generated: {what}")


class _Kept:
    """Tokens that are not handed over yet."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []

    def take(self, choice: _Choice, top_logprobs: int | None) -> None:
        self.ids += choice.token_ids or []
        if choice.logprobs is not None and top_logprobs is not None:
            self._logprobs += token_logprobs(choice.logprobs, top_logprobs)

    def hand_over(self, ended: bool | None, first_token_s: float) -> Tokens:
        tokens = Tokens(self.ids, ended, first_token_s, tuple(self._logprobs))
        self.ids, self._logprobs = [], []
        return tokens


def request_body(generation: Generation, model: str, end_ids: list[int]) -> dict[str, Any]:
    """A request to vLLM's `/v1/completions`.

    An answer that is wanted whole comes in two events: the first token, whose time is counted, and the rest.
    """
    sampling = generation.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": generation.prompt_ids,
        "max_tokens": generation.max_tokens,
        "stop_token_ids": end_ids,
        "stream": True,
        "return_token_ids": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": max(0, sampling.top_k),
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if not generation.incremental:
        body["stream_interval"] = generation.max_tokens
    if sampling.seed is not None:
        body["seed"] = sampling.seed % 2**63
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if generation.top_logprobs is not None:
        body |= {"logprobs": generation.top_logprobs, "return_tokens_as_token_ids": True}
    if generation.grammar is not None:
        schema = generation.grammar.schema
        body["structured_outputs"] = {"json_object": True} if schema is None else {"json": schema}
    return body


def token_logprobs(answer: _Logprobs, count: int) -> list[TokenLogprobs]:
    """One entry a token; vLLM puts the chosen one among the likeliest even where it is not."""
    return [
        TokenLogprobs(
            TokenLogprob(_token_id(token), logprob),
            tuple(TokenLogprob(_token_id(other), value) for other, value in _best(top, count)),
        )
        for token, logprob, top in zip(answer.tokens, answer.token_logprobs, answer.top_logprobs, strict=True)
    ]


def _best(logprobs: dict[str, float], count: int) -> list[tuple[str, float]]:
    return sorted(logprobs.items(), key=lambda entry: -entry[1])[:count]


def _token_id(text: str) -> int:
    return int(text.removeprefix(TOKEN_ID))


async def _events(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event, until vLLM says that it is done."""
    rest = b""
    async for part in response.aiter_raw():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    return
                yield data


def _refuse_steering(folder: ModelFolder) -> None:
    steering = folder.renderer.logits_processors()
    if steering:
        raise ArtifactInvalid(
            f"{folder.path} has the profile {folder.renderer.profile.name}, whose logits processors run on the engine "
            "hf only: set serving.engine to hf"
        )


def _end_ids(folder: ModelFolder, config: Mapping[str, Any]) -> list[int]:
    """The renderer's end token, and what the model's own generation config ends with."""
    path = folder.path / GENERATION_CONFIG_FILE
    configured = (_read_json(path) if path.is_file() else config).get("eos_token_id")
    own = configured if isinstance(configured, list) else [configured]
    return sorted({folder.renderer.end_token_id, *(token for token in own if token is not None)})


def _cache_bytes(folder: ModelFolder, serving: Serving) -> int:
    """Keys and values of `serving.cache_tokens` in bf16."""
    numbers = cache_numbers(folder.path)
    if not numbers:
        raise ArtifactInvalid(f"{folder.path / CONFIG_FILE} does not say how large a token is in the key-value cache")
    return serving.cache_tokens * numbers * BYTES[PRECISION]


def _read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
