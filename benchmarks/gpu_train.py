"""Training on a CUDA GPU: speed at Qwen3-0.6B's shapes, and memory at Qwen3-4B's, with random weights and no network.

    python -m benchmarks.gpu_train [--only speed|memory] [--steps 20] [--gpu-gb 24] [--no-trl]
    python -m benchmarks.gpu_train --dry-run      # the same code on a CPU with two small layers

Speed: packs of 2,048 tokens, bf16, our steps as they are and compiled, beside TRL's `SFTTrainer` where it is
installed (packed, and padded); goals are half of the measured matrix product's speed and 1.5 times TRL.
Memory: a full fine-tune in steps of 32 packs of 512 tokens with the optimizer's states paged to the host, the process
limited to 24 GB; the goal is a peak of 18.6 GB, with a loss that falls on real rows. Needs the extra `gpu`, and 10 GB
of disk for the weights. Steps go through what the platform trains with. Prints tables in Markdown.
"""

import argparse
import gc
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, Qwen3Config, TrainerCallback

from gpu_assets.base_model.tiny import write_tiny_model
from gpu_assets.rendering import Renderer, Sample
from gpu_assets.settings import Hyperparams
from gpu_assets.training.attention import attention_for
from gpu_assets.training.device import device_name, matmul_peak, peak_memory_bytes
from gpu_assets.training.loop import plan_steps
from gpu_assets.training.loss import SupervisedLoss
from gpu_assets.training.memory import CONTEXT, GB, Setup, plan_memory
from gpu_assets.training.model import load_model
from gpu_assets.training.optimizers import build_optimizer
from gpu_assets.training.progress import Progress
from gpu_assets.training.records import Numerics, TrainingDataset
from gpu_assets.training.samples import Samples, load_samples
from gpu_assets.training.shapes import KNOWN, ModelShape
from gpu_assets.training.step import Run, optimizer_step
from serving.skills import binary

WARMUP_STEPS = 3
"""Not timed: kernels are chosen and compiled, and the optimizer's states made."""
GOAL_MFU, GOAL_RATIO, GOAL_PEAK_GB = 0.5, 1.5, 18.6
SMALL = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "head_dim": 16}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2}
LEVEL = 2


@dataclass(frozen=True)
class Bench:
    """The machine and how much is measured on it."""

    device: torch.device
    precision: str
    steps: int
    is_dry: bool
    folder: Path

    def shape(self, name: str) -> dict[str, Any]:
        return KNOWN[name] | SMALL if self.is_dry else KNOWN[name]


@dataclass(frozen=True)
class Result:
    """Of the timed steps; `peak_bytes` is of the allocator."""

    name: str
    tokens_per_s: float
    supervised_per_s: float
    seconds_a_step: float
    mfu: float
    peak_bytes: int
    losses: tuple[float, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--steps", type=int, default=20, help="timed optimizer steps of each contender")
    parser.add_argument("--gpu-gb", type=float, default=24.0, help="limit of the process in the memory part")
    parser.add_argument("--no-trl", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with two small layers")
    chosen = parser.parse_args()
    if not chosen.dry_run and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --dry-run runs the same code on a CPU with small shapes")
    device = torch.device("cpu" if chosen.dry_run else "cuda")
    if chosen.dry_run:
        torch.set_num_threads(1)  # small tensors
    precision = "fp32" if chosen.dry_run else "bf16"
    print(f"{device_name(device)}, torch {torch.__version__}{', dry run' if chosen.dry_run else ''}\n")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, precision, chosen.steps, chosen.dry_run, Path(folder))
        if chosen.only != "memory":
            _print_speed(_measure_speed(bench, with_trl=not chosen.no_trl), bench)
        if chosen.only != "speed":
            _print_memory(*_measure_memory(bench, chosen.gpu_gb))


def _measure_speed(bench: Bench, *, with_trl: bool) -> list[Result]:
    length = 128 if bench.is_dry else 2048
    hyperparams = Hyperparams(
        batch_size=64, max_length=length, max_batch_tokens=length, gradient_accumulation=8, num_epochs=1
    )
    folder = _write_model(bench, "qwen3-0.6b")
    samples = _made_up_samples((bench.steps + WARMUP_STEPS) * 8 * length, length, bench.shape("qwen3-0.6b"))
    results = [_ours("ours", bench, folder, samples, hyperparams)]
    if not bench.is_dry:
        compiled = hyperparams.model_copy(update={"compile": True})
        results.append(_ours("ours, compiled", bench, folder, samples, compiled))
    if with_trl:
        results += _trl(bench, folder, samples, length)
    return results


def _measure_memory(bench: Bench, gpu_gb: float) -> tuple[Result, int, float]:
    """What was measured, the allocator's peak that was foreseen, and the limit in GB."""
    length = 128 if bench.is_dry else 512
    hyperparams = Hyperparams.model_validate(
        {
            "batch_size": 64,
            "max_length": length,
            "max_batch_tokens": length,
            "gradient_accumulation": 32,
            "learning_rate": 1e-3 if bench.is_dry else 2e-5,
            "use_gradient_checkpointing": True,
            "weights_precision": "fp32" if bench.is_dry else "bf16",
            "optimizer": {"type": "adamw" if bench.is_dry else "paged_adamw_8bit"},
        }
    )
    folder = _write_model(bench, "qwen3-4b")
    samples = _real_samples(bench, folder, (bench.steps + WARMUP_STEPS) * 32 * length, length)
    if not bench.is_dry:
        total = torch.cuda.get_device_properties(bench.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gpu_gb * GB / total))
    result = _ours("Qwen3-4B", bench, folder, samples, hyperparams)
    kind = "cpu" if bench.is_dry else "cuda"
    setup = Setup(ModelShape.read(folder), hyperparams, "fp32" if bench.is_dry else "bf16", kind)
    return result, plan_memory(setup, length).total - CONTEXT[kind], gpu_gb


def _write_model(bench: Bench, name: str) -> Path:
    """Random bf16 weights of the shape, with the preset's tokenizer and template."""
    folder = bench.folder / name
    folder.mkdir()
    write_tiny_model(folder, seed=0)
    config = {key: value for key, value in bench.shape(name).items() if key != "model_type"}
    torch.manual_seed(0)
    with torch.device(bench.device):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**config), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    _free(bench)
    return folder


def _made_up_samples(tokens: int, longest: int, config: dict[str, Any]) -> Samples:
    """Documents of an eighth to all of a pack, of which the last two thirds are supervised."""
    rng = random.Random(0)
    sequences: list[Sample] = []
    while tokens > 0:
        length = rng.randint(longest // 8, longest)
        ids = tuple(rng.randrange(config["vocab_size"]) for _ in range(length))
        sequences.append(Sample(ids, tuple(place >= length // 3 for place in range(length))))
        tokens -= length
    count = len(sequences)
    return Samples(tuple(sequences), tuple(range(count)), (None,) * count, (False,) * count, count)


def _real_samples(bench: Bench, folder: Path, tokens: int, longest: int) -> Samples:
    """Rows of the binary skill, as the platform renders them."""
    renderer = Renderer.load(folder, "plain")
    rows = list(binary.training_rows(LEVEL, max(64, tokens // 40), random.Random(0)))
    path = bench.folder / "rows.parquet"
    pl.DataFrame({"messages": [row["messages"] for row in rows]}).write_parquet(path)
    return load_samples([TrainingDataset("rows", path, "rows", len(rows))], renderer, longest)


def _prepare(bench: Bench, folder: Path, samples: Samples, hyperparams: Hyperparams) -> Run:
    numerics = Numerics(bench.device.type, "bf16" if bench.precision == "bf16" else "fp32", "packed")
    torch.manual_seed(0)
    accelerator = Accelerator(
        mixed_precision="bf16" if bench.precision == "bf16" else "no", cpu=bench.device.type == "cpu"
    )
    loss = SupervisedLoss(load_model(folder, hyperparams, attention_for(numerics))).train()
    loss, optimizer = accelerator.prepare(loss, build_optimizer(loss, hyperparams))
    steps = plan_steps(samples.lengths, hyperparams, "packed")
    return Run(accelerator, loss, optimizer, Progress(len(samples.sequences)), samples, steps, "packed", 0)


def _ours(name: str, bench: Bench, folder: Path, samples: Samples, hyperparams: Hyperparams) -> Result:
    run = _prepare(bench, folder, samples, hyperparams)
    _reset_peak(bench)
    losses, seconds = [], []
    steps = run.steps[: bench.steps + WARMUP_STEPS]
    for step in steps:
        begun = _now(bench)
        loss, _ = optimizer_step(run, step, hyperparams.learning_rate, hyperparams.max_grad_norm)
        seconds.append(_now(bench) - begun)
        losses.append(loss)
    timed = [index for step in steps[WARMUP_STEPS:] for batch in step for index in batch]
    result = _result(name, bench, folder, [samples.sequences[index] for index in timed], seconds[WARMUP_STEPS:])
    del run
    _free(bench)
    return replace(result, losses=tuple(losses))


def _result(name: str, bench: Bench, folder: Path, samples: Sequence[Sample], seconds: Sequence[float]) -> Result:
    lengths, supervised = [len(sample.ids) for sample in samples], sum(sample.num_supervised for sample in samples)
    flops = ModelShape.read(folder).training_flops(lengths, supervised)
    peak = matmul_peak(str(bench.device), bench.precision, torch.get_num_threads())
    taken = sum(seconds)
    return Result(
        name,
        sum(lengths) / taken,
        supervised / taken,
        median(seconds),
        flops / taken / peak,
        peak_memory_bytes(bench.device),
    )


class _StepTimes(TrainerCallback):  # type: ignore[misc]  # transformers ships no types for it
    """When each of TRL's steps ended."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(_now(self.bench))


def _trl(bench: Bench, folder: Path, samples: Samples, length: int) -> list[Result]:
    try:
        from benchmarks.trl_peer import sft_trainer
    except ImportError as error:
        print(f"TRL is not measured: {error}\n")
        return []
    mean = sum(samples.lengths) // len(samples.sequences)
    packed = {"batch_size": 1, "packed_tokens": length}
    padded = {"batch_size": max(1, length // mean)}
    results = []
    for name, layout in (("TRL, packed", packed), ("TRL, padded", padded)):
        arguments = layout | {"gradient_accumulation_steps": 8, "bf16": bench.precision == "bf16"}
        trainer = sft_trainer(folder, samples.sequences, bench.folder / "trl", **arguments)
        try:
            results.append(_timed_trl(name, bench, folder, samples, trainer))
        except torch.OutOfMemoryError as error:
            print(f"{name}: out of memory, {str(error).splitlines()[0]}\n")
        del trainer
        _free(bench)
    return results


def _timed_trl(name: str, bench: Bench, folder: Path, samples: Samples, trainer: Any) -> Result:
    times = _StepTimes(bench)
    trainer.add_callback(times)
    _reset_peak(bench)
    trainer.train()
    seconds = [end - begin for begin, end in pairwise(times.ends[WARMUP_STEPS - 1 :])]
    share = len(seconds) / len(times.ends)  # which samples the timed steps had is not known
    timed = samples.sequences[: max(1, round(len(samples.sequences) * share))]
    return _result(name, bench, folder, timed, seconds)


def _print_speed(results: Sequence[Result], bench: Bench) -> None:
    peak = matmul_peak(str(bench.device), bench.precision, torch.get_num_threads())
    print(f"Qwen3-0.6B shapes, {bench.precision}, matrix product {peak / 1e12:.2f} TFLOP/s\n")
    print("| | tokens/s | supervised tokens/s | s a step | MFU | peak memory, GB | ratio to the better TRL |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    best = max((result.tokens_per_s for result in results if result.name.startswith("TRL")), default=None)
    for result in results:
        ratio = f"{result.tokens_per_s / best:.2f}" if best else ""
        print(
            f"| {result.name} | {result.tokens_per_s:,.0f} | {result.supervised_per_s:,.0f} | "
            f"{result.seconds_a_step:.3f} | {result.mfu:.1%} | {result.peak_bytes / GB:.2f} | {ratio} |"
        )
    print(f"\ngoals: MFU of {GOAL_MFU:.0%}, {GOAL_RATIO} times the better TRL\n")


def _print_memory(result: Result, foreseen: int, gpu_gb: float) -> None:
    first, last = result.losses[0], result.losses[-1]
    print(f"Qwen3-4B shapes, full fine-tune, 32 packs a step, limited to {gpu_gb:g} GB\n")
    print("| peak memory, GB | foreseen, GB | goal, GB | s a step | tokens/s | MFU | loss, first to last step |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {result.peak_bytes / GB:.2f} | {foreseen / GB:.2f} | {GOAL_PEAK_GB} | {result.seconds_a_step:.2f} | "
        f"{result.tokens_per_s:,.0f} | {result.mfu:.1%} | {first:.3f} to {last:.3f} |"
    )


def _now(bench: Bench) -> float:
    if bench.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _free(bench: Bench) -> None:
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
