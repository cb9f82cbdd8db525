"""What it costs to validate: the three levels on rows of about 1 kB, and the command on a small file.

    python -m benchmarks.validation [--rows 100000] [--history 1000000] [--only quick memory standard deep command]

QUICK runs on one core, in turn with `polars.read_ndjson` and with a bare typed decode by msgspec of the
same file; of each the fastest of several rounds counts. Memory is the peak resident set of a fresh
process on a file of 1 GB. STANDARD and DEEP run on two cores, with the tiny preset's tokenizer (about
three times as many tokens as that of a large model) and, at DEEP, a history drawn at random, 2,000
evaluation items and the reserved problems of the binary skill. Prints a table in Markdown.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from benchmarks.duplicates import build
from benchmarks.rows import sentence, write_rows
from gpu_assets.base_model.tiny import CHAT_TEMPLATE, build_tokenizer
from gpu_assets.datasets.reserved import RESERVED
from gpu_assets.rendering import Renderer
from gpu_assets.rendering.profiles import get_profile
from gpu_assets.settings import Validation
from validators import DATASET_SPECS, DataValidator, Limits
from validators.contamination import EvaluationIndex, EvaluationItem
from validators.duplicates import DuplicateFinder
from validators.history import RowHistory

SPEC = DATASET_SPECS["chat_sft_v1"]
MAX_LENGTH = 2048
ROUNDS = 5
GIGABYTE = 10**9
EVALUATION_ITEMS = 2_000
HISTORY_TOKENS = 250
ROW_CHARACTERS = 560
Figures = dict[str, float]


class _Message(msgspec.Struct):
    role: str
    content: str


class _Row(msgspec.Struct):
    messages: list[_Message]
    metadata: msgspec.Raw = msgspec.Raw()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--history", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, *paths = arguments.measure
        print(json.dumps(MEASUREMENTS[name](*map(Path, paths))))
        return
    print("| figure | value |\n|---|---:|")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        write_rows(rows, arguments.rows, size=ROW_CHARACTERS)
        print(f"| bytes a row | {rows.stat().st_size / arguments.rows:,.0f} |")
        for name in arguments.only:
            for figure, value in BENCHMARKS[name](rows, arguments.history):
                print(f"| {figure} | {value} |", flush=True)


def bench_quick(rows: Path, _: int) -> Iterable[tuple[str, str]]:
    seconds = run("quick", rows, cores=1)
    ours = seconds["ours"]
    yield "QUICK, one core, MB/s", f"{rows.stat().st_size / ours / 1e6:,.0f}"
    yield "QUICK, one core, rows/s", f"{seconds['rows'] / ours:,.0f}"
    for peer in sorted(seconds.keys() - {"ours", "rows"}):
        yield f"QUICK, speed as a ratio to {peer}", f"{seconds[peer] / ours:.2f}"


def bench_memory(rows: Path, _: int) -> Iterable[tuple[str, str]]:
    large = rows.with_name("large.jsonl")
    with large.open("wb") as file:
        while file.tell() < GIGABYTE:
            with rows.open("rb") as source:
                shutil.copyfileobj(source, file)
    figures = run("memory", large, cores=1)
    yield f"QUICK, {large.stat().st_size / 1e9:.2f} GB, peak resident MB", f"{figures['rss_mb']:,.0f}"
    yield f"QUICK, {large.stat().st_size / 1e9:.2f} GB, one core, seconds", f"{figures['seconds']:.1f}"
    large.unlink()


def bench_standard(rows: Path, _: int) -> Iterable[tuple[str, str]]:
    figures = run("standard", rows, cores=2)
    yield f"STANDARD, {figures['rows']:,} rows of {figures['tokens']:.0f} tokens, seconds", f"{figures['seconds']:.1f}"
    yield "STANDARD, peak resident MB", f"{figures['rss_mb']:,.0f}"


def bench_deep(rows: Path, history: int) -> Iterable[tuple[str, str]]:
    store = rows.with_name("history.sqlite")
    build(store, history, HISTORY_TOKENS)
    total = sum(1 for _ in rows.open("rb"))
    for count in (total // 4, total // 2, total):
        part = rows.with_name(f"{count}.jsonl")
        with rows.open("rb") as source, part.open("wb") as file:
            file.writelines(line for _, line in zip(range(count), source, strict=False))
        figures = run("deep", part, store, cores=2)
        what = f"DEEP, {count:,} rows against {history:,}"
        yield f"{what}, seconds", f"{figures['seconds']:.1f}"
        yield f"{what}, peak resident MB", f"{figures['rss_mb']:,.0f}"


def bench_command(rows: Path, _: int) -> Iterable[tuple[str, str]]:
    small = rows.with_name("small.jsonl")
    with rows.open("rb") as source, small.open("wb") as file:
        while file.tell() < 2**20:
            file.write(source.readline())
    command = [sys.executable, "-m", "gpu_assets.cli", "validate", str(small), "--level", "quick"]
    seconds = min(_timed(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(ROUNDS))
    yield "gpu-assets validate --level quick, 1 MB, process start included, seconds", f"{seconds:.2f}"


BENCHMARKS: dict[str, Callable[[Path, int], Iterable[tuple[str, str]]]] = {
    "quick": bench_quick,
    "memory": bench_memory,
    "standard": bench_standard,
    "deep": bench_deep,
    "command": bench_command,
}


def run(name: str, *paths: Path, cores: int) -> Figures:
    """Measure in a fresh process on so many cores, with as many threads in each pool."""
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    command = ["env", f"POLARS_MAX_THREADS={cores}", f"RAYON_NUM_THREADS={cores}", "TOKENIZERS_PARALLELISM=true"]
    command += [sys.executable, "-m", "benchmarks.validation", "--measure", name, *map(str, paths)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, chosen)
    )
    figures: Figures = json.loads(done.stdout)
    return figures


def measure_quick(path: Path) -> Figures:
    decoder = msgspec.json.Decoder(_Row)
    validator = make_validator()
    report = validator.validate_file(path, SPEC, "QUICK")
    assert report.valid and not report.problems, report.headline()
    contestants: dict[str, Callable[[], Any]] = {
        "ours": lambda: validator.validate_file(path, SPEC, "QUICK"),
        "polars.read_ndjson": lambda: pl.read_ndjson(path),
        "msgspec typed decode, whole file": lambda: decoder.decode_lines(path.read_bytes()),
        "msgspec typed decode, line by line": lambda: _decode_lines(path, decoder),
    }
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(ROUNDS):
        for name, contestant in contestants.items():
            best[name] = min(best[name], _timed(contestant))
    return best | {"rows": report.rows}


def _decode_lines(path: Path, decoder: msgspec.json.Decoder[_Row]) -> None:
    with path.open("rb", buffering=2**20) as file:
        for line in file:
            decoder.decode(line)


def measure_memory(path: Path) -> Figures:
    validator = make_validator()
    return _measured(lambda: validator.validate_file(path, SPEC, "QUICK"))


def measure_standard(path: Path) -> Figures:
    validator = make_validator()
    return _measured(lambda: validator.validate_file(path, SPEC, "STANDARD"))


def measure_deep(path: Path, store: Path) -> Figures:
    generator = random.Random(0)
    texts = [sentence(generator, words=generator.randint(8, 60)) for _ in range(EVALUATION_ITEMS)]
    items = [EvaluationItem(f"item-{number}", text) for number, text in enumerate(texts)]
    validator = make_validator(EvaluationIndex.build(items))
    with RowHistory.open(store, read_only=True) as history:
        finder = DuplicateFinder(history, "file")
        return _measured(lambda: validator.validate_file(path, SPEC, "DEEP", duplicates=finder))


MEASUREMENTS: dict[str, Callable[..., Figures]] = {
    "quick": measure_quick,
    "memory": measure_memory,
    "standard": measure_standard,
    "deep": measure_deep,
}


def make_validator(evaluation: EvaluationIndex | None = None) -> DataValidator:
    renderer = Renderer(
        tokenizer=build_tokenizer(), template=CHAT_TEMPLATE, profile=get_profile("plain"), end_token="<|im_end|>"
    )
    return DataValidator(renderer, Limits(Validation(), MAX_LENGTH), RESERVED, evaluation)


def _measured(validate: Callable[[], Any]) -> Figures:
    begun = time.perf_counter()
    report = validate()
    return {
        "seconds": time.perf_counter() - begun,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows": report.rows,
        "tokens": report.stats.get("num_tokens", {}).get("total", 0) / report.rows,
    }


def _timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
