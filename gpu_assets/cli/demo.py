"""`gpu-assets demo`: the whole loop in front of one's eyes, in a fresh home.

Four generated files are dropped into the inbox; sensors take them in, train on one after the other,
score every checkpoint on problems that were never trained on, rank them and deploy the best. Nothing
here pushes the loop along: the demo drops files and looks. Dagster and scipy are imported inside the
functions that need them, which keeps `gpu-assets --help` quick.
"""

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gpu_assets.cli.failures import or_exit
from gpu_assets.cli.make import drop_generated
from gpu_assets.cli.options import LOG_WIDTH, SetOption, parse_overrides
from gpu_assets.cli.supervisor import LOOK_EVERY_S, Supervisor, describe_stop
from gpu_assets.cli.up import announce
from gpu_assets.errors import ServiceError
from gpu_assets.evaluation.sets import build_evaluation_set
from gpu_assets.settings import Settings, load_settings
from resources.artifacts import write_json
from resources.platform import Platform
from resources.services import ChatAnswer, inference_client
from serving.skills import binary

if TYPE_CHECKING:
    import dagster as dg

    from gpu_assets.cli.progress import LoopProgress, Row

FILES = 4
GIVE_UP_AFTER_S = 1800
CHAMPION = "champion"


@or_exit
def demo(
    exit_: Annotated[bool, typer.Option("--exit", help="Stop everything at the end.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the result as JSON to this file.")] = None,
    set_: SetOption = None,
) -> None:
    """Run the loop on generated data in a fresh home and show how the model gets better."""
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    overrides = parse_overrides(set_)
    settings, overrides = _fresh_home(load_settings(overrides), overrides)
    console.print(f"home: {settings.home}", highlight=False, soft_wrap=True)
    try:
        with Supervisor(settings, overrides, console) as supervisor:
            supervisor.wait_healthy()
            result = _run(supervisor, Platform(settings), console)
            if report is not None:
                write_json(report.expanduser().absolute(), result)
            if not result["closed"]:
                console.print("the loop did not close", style="red")
                raise typer.Exit(1)
            if not exit_:
                _stay_up(supervisor, console)
    except KeyboardInterrupt as stop:
        console.print(describe_stop(stop))
        raise typer.Exit(130) from None
    except ServiceError as error:
        typer.secho(f"gpu-assets: {error}", err=True, fg="red")
        raise typer.Exit(1) from None


def _fresh_home(settings: Settings, overrides: dict[str, str]) -> tuple[Settings, dict[str, str]]:
    """Settings with a new folder under the configured home, so that a demo never meets old data.

    A model of the user's stays where it is: under the configured home's models.
    """
    name = f"demo-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    if not settings.uses_preset:
        overrides = overrides | {"model_path": str((settings.home / "models" / settings.model_path).resolve())}
        settings = load_settings(overrides)
    return settings.model_copy(update={"home": settings.home / name}), overrides


def _run(supervisor: Supervisor, platform: Platform, console: Console) -> dict[str, Any]:
    import dagster as dg

    begun = time.monotonic()
    for seed in range(1, FILES + 1):
        drop_generated(platform.settings, seed=seed)
    with dg.DagsterInstance.from_config(str(platform.workspace.dagster)) as instance:
        progress = _watch(supervisor, platform, instance, console, begun)
    seconds = time.monotonic() - begun
    served = _ask_served(platform, progress) if progress.deployed is not None else None
    result = to_report(progress, served, platform.settings, seconds)
    console.print(checkpoint_table(progress))
    if served is not None:
        console.print(_answer_text(result), highlight=False)
    return result


def _watch(
    supervisor: Supervisor, platform: Platform, instance: "dg.DagsterInstance", console: Console, begun: float
) -> "LoopProgress":
    """Show the loop until every file went through it, a run failed, or the time is up."""
    from gpu_assets.cli.progress import look

    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            supervisor.watch_once()
            progress = look(instance, platform)
            seconds = time.monotonic() - begun
            live.update(Group(_stage_text(progress, seconds), checkpoint_table(progress)))
            if progress.has_judged(FILES) or progress.failures or seconds > GIVE_UP_AFTER_S:
                break
            time.sleep(LOOK_EVERY_S)
    if progress.failures:
        console.print(
            f"failed runs: {', '.join(progress.failures)}; see {supervisor.urls['dagster']}/runs", style="red"
        )
    return progress


def _stay_up(supervisor: Supervisor, console: Console) -> None:
    announce(supervisor, console)
    while True:
        time.sleep(LOOK_EVERY_S)
        supervisor.watch_once()


def _ask_served(platform: Platform, progress: "LoopProgress") -> tuple[ChatAnswer, str]:
    """The served model's answer to a held-out question, and what was expected."""
    items = build_evaluation_set(platform.settings.evaluation.level).items
    item = items[len(items) // 2]
    messages = [{"role": "user", "content": item.question}]
    with inference_client(platform.settings) as client:
        answer = client.chat(messages, model=CHAMPION, max_tokens=platform.settings.evaluation.max_new_tokens)
    return answer, item.problem_key


def to_report(
    progress: "LoopProgress", served: tuple[ChatAnswer, str] | None, settings: Settings, seconds: float
) -> dict[str, Any]:
    """The demo's result as JSON; `closed` says that what is served is what ranks first, and that it answers."""
    best = next((row for row in progress.rows if row.rank == 1), None)
    is_closed = (
        served is not None
        and best is not None
        and progress.has_judged(FILES)
        and served[0].weights_sha256 == best.checkpoint.weights_sha256
    )
    return {
        "closed": is_closed,
        "seconds": round(seconds, 1),
        "checkpoints": [_row_json(row) for row in progress.rows],
        "served": _served_json(served, settings) if served is not None else None,
    }


def _row_json(row: "Row") -> dict[str, Any]:
    checkpoint, score = row.checkpoint, row.score
    return {
        "name": checkpoint.name,
        "step": checkpoint.step,
        "dataset": ", ".join(checkpoint.dataset_keys),
        "loss": checkpoint.loss,
        "skill": score and score.skill,
        "level": score and score.level,
        "accuracy": score and round(score.accuracy, 4),
        "low": score and round(score.low, 4),
        "high": score and round(score.high, 4),
        "n": score and score.n,
        "rank": row.rank,
        "deployed": row.was_deployed,
        "seconds_to_served": row.seconds_to_served,
        "weights_sha256": checkpoint.weights_sha256,
    }


def _served_json(served: tuple[ChatAnswer, str], settings: Settings) -> dict[str, Any]:
    answer, problem_key = served
    item = next(
        item for item in build_evaluation_set(settings.evaluation.level).items if item.problem_key == problem_key
    )
    return {
        "name": answer.model,
        "weights_sha256": answer.weights_sha256,
        "question": item.question,
        "answer": answer.text,
        "expected": binary.parse_final(item.golden_answer),
    }


def _stage_text(progress: "LoopProgress", seconds: float) -> Text:
    counts = "  ".join(f"{stage} {count}/{FILES}" for stage, count in progress.partitions.items())
    running = ", ".join(sorted(set(progress.open_jobs))) or "waiting for a sensor"
    return Text(f"{seconds:4.0f} s  {counts}\n        now: {running}")


def checkpoint_table(progress: "LoopProgress") -> Table:
    """A row a checkpoint, in the order of training."""
    table = Table(title="checkpoints")
    table.add_column("checkpoint", no_wrap=True)
    for column in ("step", "loss", "held-out accuracy", "95 % interval", "rank", "deployed", "s to serving"):
        table.add_column(column, justify="right")
    for row in progress.rows:
        table.add_row(*_cells(row, progress))
    return table


def _cells(row: "Row", progress: "LoopProgress") -> tuple[str, ...]:
    score = row.score
    is_served = progress.deployed is not None and progress.deployed.weights_sha256 == row.checkpoint.weights_sha256
    return (
        row.checkpoint.name,
        str(row.checkpoint.step),
        f"{row.checkpoint.loss:.4f}",
        f"{score.accuracy:.3f}" if score else "",
        f"{score.low:.3f} to {score.high:.3f}" if score else "",
        str(row.rank or ""),
        "served" if is_served else "before" if row.was_deployed else "",
        f"{row.seconds_to_served:.1f}" if row.seconds_to_served is not None else "",
    )


def _answer_text(result: dict[str, Any]) -> str:
    served = result["served"]
    return (
        f"{served['name']} is served. Asked a held-out question:\n"
        f"  {served['question']}\n  {served['answer']}\n  expected: {served['expected']}\n"
        f"from the first file to here: {result['seconds']:.0f} s"
    )
