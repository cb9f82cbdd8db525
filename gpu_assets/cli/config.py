"""`gpu-assets config`: what is configured, who set it, and whether it can be used."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpu_assets.cli.config_values import DEFAULT, Value, values
from gpu_assets.cli.failures import or_exit
from gpu_assets.cli.options import LOG_WIDTH, SetOption, parse_overrides
from gpu_assets.errors import RenderingError
from gpu_assets.rendering.profiles import get_profile
from gpu_assets.settings import load_settings, settings_problems

config_app = typer.Typer(help="What is configured, and whether it can be used.", no_args_is_help=True)


@config_app.command("show")
@or_exit
def show_command(
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show every setting with its value and where that comes from; keys are masked."""
    assignments = parse_overrides(overrides)
    found = values(load_settings(assignments), assignments)
    if as_json:
        typer.echo(json.dumps([asdict(value) for value in found], indent=2, ensure_ascii=False))
        return
    Console(width=None if sys.stdout.isatty() else LOG_WIDTH).print(_table(found))


@config_app.command("check")
@or_exit
def check_command(
    file: Annotated[Path | None, typer.Argument(help="Another config.json; without it, the one in use.")] = None,
    overrides: SetOption = None,
) -> None:
    """Say what is wrong in the configuration, a sentence each; exit code 1 if anything is."""
    assignments = parse_overrides(overrides)
    problems = settings_problems(file, assignments) or _profile_problem(file, assignments)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo("every key is known and every value is within its bounds")


def _profile_problem(file: Path | None, assignments: dict[str, str]) -> list[str]:
    """What the schema cannot know: which profiles are registered."""
    try:
        get_profile(load_settings(assignments | ({"config_file": str(file)} if file else {})).profile.name)
    except RenderingError as error:
        return [str(error)]
    return []


def _table(found: list[Value]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("setting", "value", "from"):
        table.add_column(heading, overflow="fold")
    for value in found:
        shown = value.value if isinstance(value.value, str) else json.dumps(value.value, ensure_ascii=False)
        source = Text(value.source, style="dim" if value.source == DEFAULT else "cyan")
        table.add_row(Text(value.key), Text(shown), source)
    return table
