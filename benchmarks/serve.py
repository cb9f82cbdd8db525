"""The inference server on a CPU, beside `generate` and `transformers serve --continuous-batching`.

    python -m benchmarks.serve [--only speed|overhead|latency|swaps] [--rounds 5] [--swaps 100] [--report FILE]

Every part makes its models itself: the tiny preset's shapes, with weights that do not repeat themselves and never end
an answer, so that all generate as many tokens. Servers are processes, asked over HTTP by one client in a process of
its own; it shares the processors with them, and its part is printed. The same prompts, tokens and threads for all.
Prints tables in Markdown; --report writes the figures as JSON.

speed: all questions at once, answers of 64 tokens, the contenders in turn, the best round of each; no two rounds ask
the same, so that they share no more of a prompt than the template. `transformers serve` is tried with several options
first, and the best are taken. overhead: an engine that answers at once, beside a bare FastAPI. latency: 32 streams of
32 to 94 tokens, each followed by another, after a second to settle. swaps: to and fro between two models that answer
differently, each loaded anew from its folder, while requests begin on time whether or not those before them are
answered.
"""

import argparse
import json
import statistics
import string
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from benchmarks.load import Answer, Load, Measured, finished, measure, started
from benchmarks.servers import (
    ADMIN_KEY,
    KEY,
    PEER_OPTIONS,
    PeerOptions,
    Running,
    fake_server,
    our_server,
    transformers_serve,
)
from gpu_assets.base_model.tiny import write_tiny_model
from gpu_assets.rendering import Renderer

STREAMS, ANSWER_TOKENS = 32, 64
TRIAL_ROUNDS = 3
LOAD_S, SETTLE_S = 10.0, 1.0
SWAP_RATE, SWAP_ANSWER_TOKENS = 16, 24
WARM_SWAPS = 10
"""Not counted; the most that the next so many took is held against the most of the last, since what a swap frees may
be gone or not when it is looked at."""
OVERHEAD_REQUESTS = 1_500
CACHE_TOKENS = 32_768
MARKS = string.ascii_letters
"""What a wave's questions begin with."""


@dataclass(frozen=True)
class Figure:
    """One figure and what it is wanted to be; `met` is None where nothing is wanted of it."""

    part: str
    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None


def main() -> None:
    parts: dict[str, Callable[[Path, argparse.Namespace], list[Figure]]] = {
        "speed": _speed,
        "overhead": _overhead,
        "latency": _latency,
        "swaps": _swaps,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(parts))
    parser.add_argument("--rounds", type=int, default=5, help="of the speed part, the contenders in turn in each")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in every server and in generate")
    parser.add_argument("--report", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    figures: list[Figure] = []
    for name, part in parts.items():
        if chosen.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                figures += part(Path(folder), chosen)
    _print(figures)
    if chosen.report:
        chosen.report.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def write_model(folder: Path, seed: int) -> Path:
    """A tiny model that says something else in every place and never ends: its end token is out of its reach."""
    folder.mkdir(parents=True)
    write_tiny_model(folder, seed)
    end, path = Renderer.load(folder, "plain").end_token_id, folder / "model.safetensors"
    weights = {name: weight * 10 if "proj" in name else weight for name, weight in load_file(path).items()}
    weights["model.embed_tokens.weight"][end] = 0
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def body(model: str, question: str, max_tokens: int, *, stream: bool = True) -> dict[str, Any]:
    """A greedy request, as every server takes it."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    return asked | {"stream": True, "stream_options": {"include_usage": True}} if stream else asked


def questions(number: int = 0, streams: int = STREAMS) -> list[str]:
    """Of one wave; those of another number begin otherwise, until the marks are used up."""
    mark = MARKS[number % len(MARKS)]
    return [f"{mark}: add ①{'⓪' * (1 + i % 5)} and {'①' * (1 + i % 7)}, then say what {i} is" for i in range(streams)]


def wave(server: Running, max_tokens: int = ANSWER_TOKENS, streams: int = STREAMS, number: int = 0) -> Load:
    """So many questions at once."""
    bodies = [body(server.model, question, max_tokens) for question in questions(number, streams)]
    return Load(port=server.port, key=KEY, bodies=bodies, connections=len(bodies))


def tokens_per_s(measured: Measured, wanted: int) -> float:
    """Refuses figures of a run in which a request failed or was shorter than the others."""
    problems = [answer for answer in measured.answers if answer.status != 200 or answer.tokens != wanted]
    if problems:
        raise SystemExit(f"{len(problems)} of {len(measured.answers)} answers are not as asked for: {problems[0]}")
    return sum(answer.tokens for answer in measured.answers) / measured.seconds


def _speed(work: Path, chosen: argparse.Namespace) -> list[Figure]:
    folder = write_model(work / "model", 1)
    speeds: dict[str, list[float]] = {"ours": [], "transformers serve": [], "generate": []}
    client_share = 0.0
    options, tried = _best_options(folder, work, chosen.threads)
    with (
        our_server(folder, work, chosen.threads) as ours,
        transformers_serve(folder, work, chosen.threads, CACHE_TOKENS, options) as theirs,
    ):
        for server in (ours, theirs):
            measure(wave(server))
        for number in range(1, chosen.rounds + 1):
            for name, server in (("ours", ours), ("transformers serve", theirs)):
                measured = measure(wave(server, number=number))
                speeds[name].append(tokens_per_s(measured, ANSWER_TOKENS))
                client_share = max(client_share, measured.client_cpu_s / measured.seconds)
            speeds["generate"].append(_generate(folder, number))
    figures = tried
    for name, each in speeds.items():
        shown = f"{name} {options}" if name == "transformers serve" else name
        figures.append(Figure("speed", f"{shown}, best round", max(each), "tokens/s"))
        figures.append(Figure("speed", f"{shown}, median", statistics.median(each), "tokens/s"))
    for other, goal in (("generate", 4.0), ("transformers serve", 1.2)):
        ratio = max(speeds["ours"]) / max(speeds[other])
        figures.append(Figure("speed", f"ours to {other}", ratio, "times", f"at least {goal}", ratio >= goal))
    return [*figures, Figure("speed", "client's part of a processor, at most", client_share, "of one")]


def _best_options(folder: Path, work: Path, threads: int) -> tuple[PeerOptions, list[Figure]]:
    """Those with which `transformers serve`, alone on the machine, has the best round, and what all had."""
    best: dict[PeerOptions, float] = {}
    for options in PEER_OPTIONS:
        with transformers_serve(folder, work, threads, CACHE_TOKENS, options) as server:
            measure(wave(server))
            trials = [measure(wave(server, number=number)) for number in range(1, TRIAL_ROUNDS + 1)]
        best[options] = max(tokens_per_s(trial, ANSWER_TOKENS) for trial in trials)
    tried = [
        Figure("speed", f"transformers serve {options}, tried", each, "tokens/s") for options, each in best.items()
    ]
    return max(best, key=best.__getitem__), tried


def _generate(folder: Path, number: int) -> float:
    """Tokens a second of plain `generate`, one question after the other."""
    renderer = Renderer.load(folder, "plain")
    prompts = [renderer.prompt_ids([{"role": "user", "content": question}]) for question in questions(number)]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generate(torch.tensor([prompts[0]]), max_new_tokens=4, do_sample=False)
    begun = time.perf_counter()
    for prompt in prompts:
        model.generate(torch.tensor([prompt]), max_new_tokens=ANSWER_TOKENS, do_sample=False)
    return len(prompts) * ANSWER_TOKENS / (time.perf_counter() - begun)


def _overhead(work: Path, _: argparse.Namespace) -> list[Figure]:
    folder = write_model(work / "model", 1)
    seconds = {}
    for kind in ("ours", "bare"):
        with fake_server(kind, folder, work) as server:
            bodies = [body(server.model, questions()[0], 20, stream=False)]
            load = Load(port=server.port, key=KEY, bodies=bodies * OVERHEAD_REQUESTS)
            answers = measure(load).answers
            if any(answer.status != 200 for answer in answers):
                raise SystemExit(f"{kind}: {answers[0]}")
            seconds[kind] = [answer.total_s for answer in answers[100:]]
    p95 = percentile(seconds["ours"], 95) * 1e3
    return [
        Figure("overhead", "one request, engine that answers at once, p95", p95, "ms", "under 3", p95 < 3),
        Figure("overhead", "the same, median", percentile(seconds["ours"], 50) * 1e3, "ms"),
        Figure("overhead", "bare FastAPI, p95", percentile(seconds["bare"], 95) * 1e3, "ms"),
        Figure("overhead", "bare FastAPI, median", percentile(seconds["bare"], 50) * 1e3, "ms"),
    ]


def _latency(work: Path, chosen: argparse.Namespace) -> list[Figure]:
    folder = write_model(work / "model", 1)
    with our_server(folder, work, chosen.threads) as server:
        measure(wave(server))
        alone = measure(Load(port=server.port, key=KEY, bodies=wave(server, 16).bodies * 2))
        bodies = [body(server.model, question, STREAMS + 2 * i) for i, question in enumerate(questions())]
        loaded = measure(
            Load(port=server.port, key=KEY, bodies=bodies, connections=STREAMS, seconds=LOAD_S, probe="/health")
        )
    settled = [answer for answer in loaded.answers if answer.begun_s > SETTLE_S]
    unloaded = percentile([answer.first_s for answer in alone.answers], 95) * 1e3
    first = percentile([answer.first_s for answer in settled], 95) * 1e3
    health = percentile(loaded.probes_s, 99) * 1e3
    ratio = first / unloaded
    return [
        Figure("latency", "first text, one at a time, p95", unloaded, "ms"),
        Figure("latency", f"first text, {STREAMS} streams, p95", first, "ms"),
        Figure("latency", f"answered in {LOAD_S:g} s", len(loaded.answers), ""),
        Figure("latency", "loaded to unloaded", ratio, "times", "under 5", ratio < 5),
        Figure("latency", f"/health, {STREAMS} streams, p99", health, "ms", "under 50", health < 50),
        Figure("latency", "/health, worst", max(loaded.probes_s) * 1e3, "ms"),
    ]


def _swaps(work: Path, chosen: argparse.Namespace) -> list[Figure]:
    folders = [write_model(work / name, seed) for seed, name in ((1, "first"), (2, "second"))]
    with our_server(folders[0], work, chosen.threads) as server, httpx.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {ADMIN_KEY}"}, timeout=120, trust_env=False
    ) as admin:  # fmt: skip
        wanted = _wanted_answers(server, folders, admin)
        load = Load(
            port=server.port,
            key=KEY,
            bodies=[body("champion", question, SWAP_ANSWER_TOKENS) for question in questions()],
            rate=SWAP_RATE,
            keep_answers=True,
        )
        with started(load) as process:
            seconds, resident = _swap_back_and_forth(server, folders, admin, chosen.swaps)
            measured = finished(process)
    failed = [answer for answer in measured.answers if answer.status != 200 or answer.problem]
    mixed = [answer for answer in measured.answers if answer not in failed and not _is_one_models(answer, wanted)]
    by_model = {name: sum(answer.model == name for answer in measured.answers) for name in wanted}
    settled = resident[WARM_SWAPS:] or resident
    growth = max(settled[-WARM_SWAPS:]) / max(settled[:WARM_SWAPS]) - 1
    return [
        Figure("swaps", "swaps", len(seconds), "", ""),
        Figure("swaps", f"requests, {SWAP_RATE} a second", len(measured.answers), ""),
        *(Figure("swaps", f"answered by the {name}", share, "") for name, share in by_model.items()),
        Figure("swaps", "requests that failed", len(failed), "", "0", not failed),
        Figure("swaps", "answers that mix versions", len(mixed), "", "0", not mixed),
        Figure("swaps", "one swap, median", percentile(seconds, 50), "s"),
        Figure("swaps", "one swap, longest", max(seconds), "s"),
        Figure("swaps", "first text, p95", percentile([a.first_s for a in measured.answers], 95) * 1e3, "ms"),
        Figure("swaps", "resident at the end", resident[-1] / 2**20, "MiB"),
        Figure("swaps", "resident growth", growth * 100, "%", "under 5", growth < 0.05),
    ]


def _wanted_answers(server: Running, folders: Sequence[Path], admin: httpx.Client) -> dict[str, list[str]]:
    """What each model says to each question, by its name."""
    wanted = {}
    for folder in reversed(folders):
        _post(admin, "/models/reload", {"model_path": str(folder), "owner": "platform"})
        bodies = [body("champion", question, SWAP_ANSWER_TOKENS) for question in questions()]
        answers = measure(Load(port=server.port, key=KEY, bodies=bodies, keep_answers=True)).answers
        wanted[folder.name] = [answer.text for answer in answers]
    first, second = wanted.values()
    if any(one == other for one, other in zip(first, second, strict=True)):
        raise SystemExit("the two models answer a question alike, so no mixture would be seen")
    return wanted


def _swap_back_and_forth(
    server: Running, folders: Sequence[Path], admin: httpx.Client, swaps: int
) -> tuple[list[float], list[int]]:
    """Seconds and resident bytes of each swap; the model before is let go of, so that each is loaded anew."""
    process, seconds, resident = psutil.Process(server.pid), [], []
    held = {info["name"]: info["weights_sha256"] for info in admin.get("/models/pool").json()["models"]}
    _post(admin, "/models/pool/unload", {"id": held[folders[1].name]})
    for number in range(swaps):
        before, after = folders[number % 2], folders[(number + 1) % 2]
        begun = time.perf_counter()
        _post(admin, "/models/reload", {"model_path": str(after), "owner": "platform"})
        seconds.append(time.perf_counter() - begun)
        _post(admin, "/models/pool/unload", {"id": held[before.name]})
        resident.append(process.memory_info().rss)
    return seconds, resident


def _is_one_models(answer: Answer, wanted: dict[str, list[str]]) -> bool:
    return answer.model in wanted and answer.text == wanted[answer.model][answer.body]


def _post(admin: httpx.Client, path: str, json_body: dict[str, Any]) -> None:
    response = admin.post(path, json=json_body)
    if response.status_code != httpx.codes.OK:
        raise SystemExit(f"{path}: {response.status_code} {response.text}")


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _print(figures: Sequence[Figure]) -> None:
    print("| part | figure | value | wanted | |")
    print("|---|---|---:|---|---|")
    for figure in figures:
        met = {None: "", True: "met", False: "missed"}[figure.met]
        value = f"{figure.value:,.0f}" if float(figure.value).is_integer() else f"{figure.value:,.3g}"
        print(f"| {figure.part} | {figure.name} | {value} {figure.unit} | {figure.goal} | {met} |")


if __name__ == "__main__":
    main()
