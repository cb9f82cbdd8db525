"""`gpu-assets plan`: what training will hold in a GPU's memory, and what to change if that is too much. No torch."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from gpu_assets.base_model.present import base_model_folder
from gpu_assets.cli.failures import or_exit
from gpu_assets.cli.options import SetOption, parse_overrides
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import PRESET_PREFIX, Settings, load_settings
from gpu_assets.training.memory import GB, MemoryPlan, Precision, Setup, gigabytes, plan_memory, refusal
from gpu_assets.training.shapes import KNOWN, ModelShape
from resources.workspace import Workspace


@or_exit
def plan(
    gpu_gb: Annotated[
        float | None,
        typer.Option("--gpu-gb", min=0.1, help="Memory of the GPU in 10^9 bytes; without it, of the host."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help=f"A model folder, or one of {', '.join(KNOWN)}; without it, the configured one.")
    ] = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Predict the peak memory of training by part; exit code 1 if it does not fit."""
    settings = load_settings(parse_overrides(overrides))
    setup = _setup(settings, _shape(model, settings), "cpu" if gpu_gb is None else "cuda")
    budget, where = _budget(gpu_gb)
    planned, problem = plan_memory(setup), refusal(setup, budget, where)
    if as_json:
        found = {**asdict(planned), "total_bytes": planned.total, "budget_bytes": budget, "refusal": problem}
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(planned, budget, where)
        if problem is not None:
            typer.secho(problem, err=True, fg="red")
    if problem is not None:
        raise typer.Exit(1)


def _shape(model: str | None, settings: Settings) -> ModelShape:
    if model is None and settings.uses_preset:
        model = settings.model_path
    name = (model or "").removeprefix(PRESET_PREFIX)
    if name.lower() in KNOWN:
        return ModelShape.of_config(KNOWN[name.lower()], name)
    folder = base_model_folder(settings, Workspace(settings.home)) if model is None else Path(model)
    if not folder.is_dir():
        raise ArtifactInvalid(f"{folder} is no model folder; name one, or one of {', '.join(KNOWN)}")
    return ModelShape.read(folder)


def _setup(settings: Settings, shape: ModelShape, device: Literal["cuda", "cpu"]) -> Setup:
    hyperparams, distributed = settings.hyperparams, settings.distributed
    wanted = hyperparams.fp_precision
    precision: Precision = ("bf16" if device == "cuda" else "fp32") if wanted == "auto" else wanted
    shards = distributed.processes if distributed.sharding == "full" else 1
    return Setup(shape, hyperparams, precision, device, shards)


def _budget(gpu_gb: float | None) -> tuple[int, str]:
    if gpu_gb is not None:
        return int(gpu_gb * GB), "the GPU"
    from psutil import virtual_memory

    return int(virtual_memory().total), "this host"


def _print(planned: MemoryPlan, budget: int, where: str) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    table.add_column("part", footer=f"peak, of {gigabytes(budget)} GB of {where}")
    table.add_column("GB", justify="right", footer=gigabytes(planned.total))
    table.add_column("set by")
    for part in planned.parts:
        table.add_row(part.name, gigabytes(part.bytes), part.setting and f"hyperparams.{part.setting}")
    console = Console()
    console.print(f"micro-batches of {planned.tokens} tokens")
    console.print(table)
    if planned.host_bytes:
        console.print(f"in the host's memory: {gigabytes(planned.host_bytes)} GB of optimizer states")
