"""Serving on a CUDA GPU at Qwen3-0.6B's shapes, with random weights and no network.

    python -m benchmarks.gpu_serve [--streams 1 8 32 128] [--tokens 256] [--vllm VENV] [--report FILE]
    python -m benchmarks.gpu_serve --dry-run      # the same code on a CPU with two small layers

Tokens a second of our server beside plain `generate`, `transformers serve --continuous-batching` with several options
and, where VENV holds it, vLLM: by itself, and as the engine of our server. All are asked over HTTP by the same client,
one contender after the other, since each takes what memory it wants; the better of two rounds counts, and no two rounds
ask a server the same. Answers are greedy and equally long. Prints tables in Markdown.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from benchmarks.gpu_train import SMALL
from benchmarks.load import measure
from benchmarks.serve import percentile, questions, tokens_per_s, wave
from benchmarks.servers import PEER_OPTIONS, Running, our_server, transformers_serve, vllm_serve
from gpu_assets.base_model.tiny import write_tiny_model
from gpu_assets.rendering import Renderer
from gpu_assets.settings import PROJECT_ROOT
from gpu_assets.training.device import device_name
from gpu_assets.training.shapes import KNOWN

SHAPE = "qwen3-0.6b"
ROUNDS = 2
MAX_CONTEXT, CACHE_TOKENS = 2048, 131_072
"""Room for 128 answers of 256 tokens and more, for every engine that has a size of its own."""


@dataclass(frozen=True)
class Result:
    """Of the better round; `first_s` is the 95th percentile of the time to the first text."""

    name: str
    streams: int
    tokens_per_s: float
    first_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--vllm", type=Path, default=PROJECT_ROOT / "var/engines/vllm", help="its virtual environment")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with two small layers")
    chosen = parser.parse_args()
    if not chosen.dry_run and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --dry-run runs the same code on a CPU with small shapes")
    device = torch.device("cpu" if chosen.dry_run else "cuda")
    print(f"{device_name(device)}, torch {torch.__version__}{', dry run' if chosen.dry_run else ''}\n")
    with tempfile.TemporaryDirectory() as work:
        folder = write_model(Path(work) / "model", is_dry=chosen.dry_run)
        results = [_generate(folder, device, chosen.tokens)]
        for name, serving in _servers(folder, Path(work), chosen):
            with serving as server:
                waves = count()
                results += [_measure(name, server, streams, chosen.tokens, waves) for streams in chosen.streams]
    _print(results, chosen.streams)
    if chosen.report:
        chosen.report.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


def write_model(folder: Path, *, is_dry: bool) -> Path:
    """Random weights of the shape whose end token is out of reach, and a tokenizer that has text for every token."""
    folder.mkdir(parents=True)
    write_tiny_model(folder, seed=0)
    config: dict[str, Any] = {key: value for key, value in KNOWN[SHAPE].items() if key != "model_type"}
    config |= SMALL if is_dry else {}
    end = Renderer.load(folder, "plain").end_token_id
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**config, eos_token_id=end), dtype=torch.bfloat16)
    with torch.no_grad():
        model.get_output_embeddings().weight[end] = 0
    model.save_pretrained(folder)
    _fill_vocabulary(folder / "tokenizer.json", config["vocab_size"])
    return folder


def _fill_vocabulary(path: Path, size: int) -> None:
    """Tokens that no text is made of, so that whatever random weights say can be decoded."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    taken = {*vocabulary.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    vocabulary |= {f"filler{id_}": id_ for id_ in range(size) if id_ not in taken}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def _servers(
    folder: Path, work: Path, chosen: argparse.Namespace
) -> Iterator[tuple[str, AbstractContextManager[Running]]]:
    threads = 1 if chosen.dry_run else os.cpu_count() or 1
    cache = {"GPU_ASSETS_SERVING__CACHE_TOKENS": str(8192 if chosen.dry_run else CACHE_TOKENS)}
    yield "ours, hf", our_server(folder, work, threads, **cache)
    cb_cache = 8192 if chosen.dry_run else CACHE_TOKENS
    for options in PEER_OPTIONS:
        yield f"transformers serve {options}", transformers_serve(folder, work, threads, cb_cache, options)
    program = chosen.vllm / "bin" / "vllm"
    if not program.is_file():
        print(f"vLLM is not measured: {program} does not exist\n")
        return
    engine = {"GPU_ASSETS_SERVING__ENGINE": "vllm", "GPU_ASSETS_SERVING__VLLM__VENV": str(chosen.vllm.resolve())}
    yield "ours, vllm", our_server(folder, work, threads, **cache, **engine)
    yield "vllm serve", vllm_serve(program, folder, work, threads, MAX_CONTEXT)


def _generate(folder: Path, device: torch.device, tokens: int) -> Result:
    """Plain `generate`, one question after the other."""
    renderer = Renderer.load(folder, "plain")
    prompts = [renderer.prompt_ids([{"role": "user", "content": question}]) for question in questions()[:4]]
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.to(device)
    model.generate(torch.tensor([prompts[0]], device=device), max_new_tokens=8, do_sample=False)
    begun = time.perf_counter()
    for prompt in prompts:
        answer = model.generate(torch.tensor([prompt], device=device), max_new_tokens=tokens, do_sample=False)
        answer.cpu()
    taken = time.perf_counter() - begun
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Result("generate", 1, len(prompts) * tokens / taken, 0.0)


def _measure(name: str, server: Running, streams: int, tokens: int, waves: Iterator[int]) -> Result:
    measure(wave(server, 8, streams, next(waves)))
    rounds = [measure(wave(server, tokens, streams, next(waves))) for _ in range(ROUNDS)]
    best = max(rounds, key=lambda measured: tokens_per_s(measured, tokens))
    first = [answer.first_s for answer in best.answers]
    p95 = first[0] if len(first) == 1 else percentile(first, 95)
    return Result(name, streams, tokens_per_s(best, tokens), p95)


def _print(results: list[Result], streams: list[int]) -> None:
    print("Qwen3-0.6B shapes, tokens a second (95th percentile of the time to the first text, ms)\n")
    print(f"| | {' | '.join(f'{count} at once' for count in streams)} |")
    print(f"|---|{'---:|' * len(streams)}")
    for name in dict.fromkeys(result.name for result in results):
        cells = {result.streams: _cell(result) for result in results if result.name == name}
        print(f"| {name} | {' | '.join(cells.get(count, '') for count in streams)} |")


def _cell(result: Result) -> str:
    first = f" ({result.first_s * 1e3:,.0f})" if result.first_s else ""
    return f"{result.tokens_per_s:,.0f}{first}"


if __name__ == "__main__":
    main()
