"""Supervised tokens a second of our training loop on a CPU, beside TRL's `SFTTrainer` and a bare loop.

    python -m benchmarks.train [--rows 1000] [--repeats 5] [--threads 1]

The tiny preset on rows of the binary skill, one pass, each in turn and in every repeat; medians count. TRL takes
the same sequences already tokenized, groups them by length and pads, with the better of two batch sizes (packs are
slower on a CPU). The bare loop has our batches already as tensors and no more than forward, backward, clipping and
AdamW. Loading and rendering are in none of the times. Beside the time on the clock stands the processor's, which
other work on the machine disturbs less; ours includes rendering and publishing there. Prints a table in Markdown.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import polars as pl
import torch

from benchmarks.trl_peer import sft_trainer
from gpu_assets.base_model.describe import ensure_base_model
from gpu_assets.rendering import Renderer, Sample
from gpu_assets.settings import Settings
from gpu_assets.training.loop import plan_steps, train
from gpu_assets.training.loss import SupervisedLoss, collate
from gpu_assets.training.model import load_model
from gpu_assets.training.numerics import numerics_here
from gpu_assets.training.optimizers import build_optimizer
from gpu_assets.training.records import Parent, TrainingDataset, TrainingPlan
from gpu_assets.training.samples import load_samples
from resources.workspace import Workspace
from serving.skills import binary

LEVEL = 2
TRL_BATCH_SIZES = (32, 64)
Seconds = tuple[float, float]
"""By the clock, and of the processor."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        plan = _plan(Path(folder), chosen.rows)
        renderer = Renderer.load(plan.parent.folder, plan.renderer.profile)
        samples = list(load_samples(plan.datasets, renderer, plan.hyperparams.max_length).sequences)
        _print_losses(plan, samples, renderer.end_token_id, Path(folder))
        _print_speeds(_measure(plan, samples, renderer.end_token_id, Path(folder), chosen.repeats), samples)


def _plan(home: Path, count: int) -> TrainingPlan:
    settings = Settings(home=home)
    base = ensure_base_model(settings, Workspace(home))
    rows = binary.training_rows(LEVEL, count, random.Random(0))
    path = home / "rows.parquet"
    pl.DataFrame({"messages": [row["messages"] for row in rows]}).write_parquet(path)
    return TrainingPlan(
        model_name=settings.model_name,
        parent=Parent.of_base(base),
        datasets=(TrainingDataset("rows", path, "rows", count),),
        hyperparams=settings.hyperparams,
        renderer=base.renderer,
        numerics=numerics_here(settings.hyperparams),
    )


def _measure(
    plan: TrainingPlan, samples: list[Sample], pad_id: int, home: Path, repeats: int
) -> dict[str, list[Seconds]]:
    """What one pass takes, by who makes it."""
    contenders: dict[str, Callable[[int], Seconds]] = {"our loop": partial(_ours, plan, home)}
    for size in TRL_BATCH_SIZES:
        contenders[f"TRL, batches of {size}"] = partial(_trl, plan, samples, home, size)
    contenders["bare loop"] = partial(_bare, plan, samples, pad_id)
    seconds: dict[str, list[Seconds]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        for name, contend in contenders.items():
            seconds[name].append(contend(repeat))
    return seconds


def _ours(plan: TrainingPlan, home: Path, repeat: int) -> Seconds:
    work = home / f"work-{repeat}"
    work.mkdir()
    begun = time.process_time()
    by_the_clock = train(plan, work, None, lambda _: None).seconds
    return by_the_clock, time.process_time() - begun


def _trl(plan: TrainingPlan, samples: list[Sample], home: Path, batch_size: int, repeat: int) -> Seconds:
    rate = plan.hyperparams.learning_rate
    trainer = sft_trainer(plan.parent.folder, samples, home / "trl", batch_size=batch_size, learning_rate=rate)
    begun = time.process_time()
    by_the_clock = float(trainer.train().metrics["train_runtime"])
    return by_the_clock, time.process_time() - begun


def _bare(plan: TrainingPlan, samples: list[Sample], pad_id: int, repeat: int) -> Seconds:
    loss = SupervisedLoss(load_model(plan.parent.folder, plan.hyperparams)).train()
    optimizer = build_optimizer(loss, plan.hyperparams)
    steps = plan_steps([len(sample.ids) for sample in samples], plan.hyperparams, plan.numerics.layout)
    batches = [collate([samples[i] for i in batch], plan.numerics.layout, pad_id) for step in steps for batch in step]
    begun, processor = time.perf_counter(), time.process_time()
    for tensors in batches:
        (loss(*tensors) / len(tensors.targets_S)).backward()
        torch.nn.utils.clip_grad_norm_(loss.parameters(), plan.hyperparams.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - begun, time.process_time() - processor


def _print_losses(plan: TrainingPlan, samples: list[Sample], pad_id: int, home: Path) -> None:
    """The same loss on the same batch."""
    batch = samples[:32]
    trainer = sft_trainer(plan.parent.folder, batch, home / "trl", batch_size=len(batch))
    inputs = trainer.data_collator([trainer.train_dataset[index] for index in range(len(batch))])
    theirs = trainer.compute_loss(trainer.model, inputs).item()
    tensors = collate(batch, plan.numerics.layout, pad_id)
    loss = SupervisedLoss(load_model(plan.parent.folder, plan.hyperparams))
    ours = loss(*tensors).item() / len(tensors.targets_S)
    print(f"loss on the same batch: ours {ours:.6f}, TRL {theirs:.6f}, difference {abs(ours - theirs):.1e}\n")


def _print_speeds(seconds: dict[str, list[Seconds]], samples: list[Sample]) -> None:
    supervised = sum(sample.num_supervised for sample in samples)
    clock, processor = (
        {name: supervised / median(each[kind] for each in taken) for name, taken in seconds.items()} for kind in (0, 1)
    )
    best_clock, best_processor = (
        max(speed for name, speed in speeds.items() if name.startswith("TRL")) for speeds in (clock, processor)
    )
    print("| one pass | supervised tokens/s | lowest to highest | ratio to the better TRL | by processor time |")
    print("|---|---:|---:|---:|---:|")
    for name, taken in seconds.items():
        low, high = (supervised / limit(each[0] for each in taken) for limit in (max, min))
        ratios = f"{clock[name] / best_clock:.2f} | {processor[name] / best_processor:.2f}"
        print(f"| {name} | {clock[name]:,.0f} | {low:,.0f} to {high:,.0f} | {ratios} |")


if __name__ == "__main__":
    main()
