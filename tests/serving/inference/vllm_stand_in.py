"""A process that speaks as `vllm serve` does, on a Unix socket, with the transformers engine at work behind it.

    python -m tests.serving.inference.vllm_stand_in FOLDER SOCKET

Only what vLLM's `/v1/completions` takes is taken, any other key is refused; answers are written in its form. What it
cannot show is vLLM itself: its speed, its start, its numbers. It writes its pid beside the socket.
"""

import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import uvicorn
from fastapi import FastAPI, Header, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from gpu_assets.settings import Serving, load_settings
from serving.inference.engine import Generation, JsonGrammar, Sampling, Tokens
from serving.inference.loader import ModelFolder, inspect_folder
from serving.inference.transformers_engine import load_engine
from serving.inference.vllm_engine import VllmEngine
from serving.inference.vllm_engine import load_engine as load_vllm


@contextmanager
def started_stand_in(folder: ModelFolder, home: Path) -> Iterator[VllmEngine]:
    """A `VllmEngine` that starts this module in place of vLLM."""
    settings = load_settings().model_copy(update={"home": home})
    engine = load_vllm(folder, settings, lambda socket: stand_in_command(folder.path, socket))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def stand_in_command(folder: Path, socket: Path) -> list[str]:
    return [sys.executable, "-m", "tests.serving.inference.vllm_stand_in", str(folder), str(socket)]


class Completion(BaseModel):
    """vLLM's names; it knows more."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    prompt: list[int]
    max_tokens: int
    stream: Literal[True]
    return_token_ids: Literal[True]
    stop_token_ids: list[int]
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    stream_interval: int = 1
    seed: int | None = None
    logit_bias: dict[str, float] = {}
    logprobs: int | None = None
    return_tokens_as_token_ids: bool = False
    structured_outputs: dict[str, Any] | None = None

    def generation(self) -> Generation:
        sampling = Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            logit_bias={int(token): bias for token, bias in self.logit_bias.items()},
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
        )
        grammar = None if self.structured_outputs is None else JsonGrammar(self.structured_outputs.get("json"))
        return Generation(self.prompt, self.max_tokens, sampling, self.stream_interval == 1, self.logprobs, grammar)


def create_app(folder: Path) -> FastAPI:
    torch.set_num_threads(1)
    settings = load_settings()
    engine = load_engine(inspect_folder(folder, settings.profile), Serving(cache_tokens=8192))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.stop()

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if engine.alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        stats = engine.stats()
        labels = '{engine="0",model_name="x"}'
        return PlainTextResponse(
            "# HELP vllm:num_requests_running Requests in a batch.\n"
            f"vllm:num_requests_running{labels} {float(stats.running)}\n"
            f"vllm:num_requests_waiting{labels} {float(stats.waiting)}\n"
            f"vllm:kv_cache_usage_perc{labels} 0.25\n"
        )

    @app.post("/v1/completions")
    async def completions(request: Request, authorization: str = Header("")) -> Response:
        if authorization != f"Bearer {os.environ['VLLM_API_KEY']}":
            return Response('{"error":"Unauthorized"}', 401)
        asked = Completion.model_validate_json(await request.body())
        refusal = (asked.structured_outputs or {}).get("json", {}).get("refuse")
        if refusal is not None or not asked.prompt:
            return JSONResponse({"error": {"message": refusal or "the prompt is empty", "code": 400}}, 400)
        return StreamingResponse(events(asked, engine.generate(asked.generation())), media_type="text/event-stream")

    return app


async def events(asked: Completion, answer: AsyncGenerator[Tokens, None]) -> AsyncGenerator[str, None]:
    async for tokens in answer:
        choice: dict[str, Any] = {"index": 0, "text": "", "token_ids": tokens.ids, "logprobs": None}
        choice |= {"finish_reason": None if tokens.ended is None else "stop" if tokens.ended else "length"}
        if asked.logprobs is not None:
            choice["logprobs"] = {
                "text_offset": [0] * len(tokens.ids),
                "tokens": [f"token_id:{entry.chosen.id}" for entry in tokens.logprobs],
                "token_logprobs": [entry.chosen.logprob for entry in tokens.logprobs],
                "top_logprobs": [
                    {f"token_id:{each.id}": each.logprob for each in (entry.chosen, *entry.top)}
                    for entry in tokens.logprobs
                ],
            }
        yield f"data: {json.dumps({'id': 'cmpl-1', 'object': 'text_completion', 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


if __name__ == "__main__":
    folder, socket = Path(sys.argv[1]), Path(sys.argv[2])
    (socket.parent / "pid").write_text(str(os.getpid()))
    uvicorn.run(create_app(folder), uds=str(socket), log_level="warning", timeout_graceful_shutdown=1)
