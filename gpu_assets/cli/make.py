"""`gpu-assets init-model` and `gpu-assets generate`: a model and data without Dagster."""

import json
import random
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gpu_assets.cli.failures import or_exit
from gpu_assets.errors import SettingsError
from gpu_assets.settings import Priority, Settings, load_settings
from resources.workspace import Workspace
from serving.skills import binary

console = Console()


@or_exit
def init_model(
    out: Annotated[Path, typer.Option(help="Folder to write: new, empty, or a model of ours, which is replaced.")],
    preset: Annotated[str, typer.Option(help="Built-in model.")] = "tiny",
    seed: Annotated[int, typer.Option(min=0, help="Of the weights; the same seed gives the same weights.")] = 42,
) -> None:
    """Write a built-in model, manifest included."""
    from gpu_assets.base_model.describe import init_model as write_model

    manifest = write_model(preset, out.expanduser().resolve(), seed)
    console.print(f"{out}: {manifest['architecture']}, weights {manifest['weights_sha256'][:8]}")


@or_exit
def generate(
    seed: Annotated[int, typer.Option(min=0, help="The same seed, level and count give the same file.")],
    count: Annotated[int | None, typer.Option(min=1, help="Rows; auto_generate.count unless given.")] = None,
    level: Annotated[int | None, typer.Option(min=1, help="Level; auto_generate.level unless given.")] = None,
) -> None:
    """Write a file of generated problems into the inbox."""
    settings = load_settings()
    path = drop_generated(settings, seed=seed, count=count, level=level)
    console.print(f"{path}")


def drop_generated(
    settings: Settings,
    *,
    seed: int,
    count: int | None = None,
    level: int | None = None,
    priority: Priority | None = None,
) -> Path:
    """Generate a file with its sidecar and move both into the inbox, sidecar first, each atomically.

    Raises:
        SettingsError: if the level is unknown.
    """
    options = settings.auto_generate
    if (level or options.level) not in binary.LEVELS:
        raise SettingsError(f"level {level or options.level} is unknown; known levels: {sorted(binary.LEVELS)}")
    count, level, priority = count or options.count, level or options.level, priority or options.priority
    folder = Workspace(settings.home).create().inbox / priority
    name = f"train_{binary.SKILL_ID}_level{level}_{count}_seed{seed}.jsonl"
    rows = binary.training_rows(level, count, random.Random(f"{binary.SKILL_ID}:{level}:{seed}"))
    sidecar = {
        "generator_id": binary.GENERATOR_ID,
        "generator_version": binary.GENERATOR_VERSION,
        "example_count": count,
        "schema_id": "chat_sft_v1",
        "params": {"level": level, "seed": seed},
    }
    _move_in(folder / f"{name}.meta.json", json.dumps(sidecar, indent=2) + "\n")
    _move_in(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return folder / name


def _move_in(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
