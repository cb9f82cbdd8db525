"""`gpu-assets queue`: what waits for training, and what a person can do about it.

Dagster is imported inside the commands, which keeps `gpu-assets --help` quick.
"""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gpu_assets.cli.failures import or_exit
from gpu_assets.cli.queue_table import queue_table
from gpu_assets.datasets.names import display
from gpu_assets.datasets.queue import (
    QueueFacts,
    add_files,
    list_inbox,
    list_queue,
    retry,
    retryable,
    set_priority,
)
from gpu_assets.errors import SettingsError
from gpu_assets.settings import Priority, load_settings
from resources.platform import Platform

queue_app = typer.Typer(help="What waits for training: list it, add to it, change it.", no_args_is_help=True)


class PriorityChoice(StrEnum):
    """The three priorities as the command line offers them."""

    high = "high"
    normal = "normal"
    low = "low"

    @property
    def as_setting(self) -> Priority:
        return self.value


@queue_app.command("list")
@or_exit
def list_command(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show every dataset with its state, and what lies in the inbox."""
    platform = _platform()
    facts = _facts(platform)
    held = {"hold": facts.hold if facts else None, "full_disk": facts.full_disk if facts else None}
    rows, inbox = list_queue(platform.workspace, facts or QueueFacts()), list_inbox(platform.workspace)
    if as_json:
        found = {"datasets": [asdict(row) for row in rows], "inbox": inbox, **held}
        typer.echo(json.dumps(found, indent=2))
        return
    console = Console()
    nothing = "no dataset was taken in yet; `gpu-assets queue add FILE` drops one"
    console.print(queue_table(rows, console) if rows else nothing)
    if inbox:
        shown = ", ".join(inbox[:5]) + (", ..." if len(inbox) > 5 else "")
        console.print(Text(f"in the inbox, not taken in yet: {len(inbox)} ({shown})"))
    for why in filter(None, held.values()):
        console.print(Text(f"nothing is trained: {why}"))
    if facts is None:
        console.print("the home has no Dagster instance yet: states are from files only; start `gpu-assets up`")


@queue_app.command("add")
@or_exit
def add_command(
    files: Annotated[list[Path], typer.Argument(help="Files named *.jsonl; FILE.meta.json goes with each.")],
    priority: Annotated[
        PriorityChoice | None, typer.Option(help="The inbox folder; without it the sidecar's, else normal.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="Schema id to write into the sidecar.")] = None,
) -> None:
    """Copy files into the inbox."""
    workspace = _platform().workspace.create()
    added = add_files(workspace, files, priority.as_setting if priority else None, schema)
    for path in added:
        typer.echo(display(str(path)))


@queue_app.command("set-priority")
@or_exit
def set_priority_command(key: str, priority: PriorityChoice) -> None:
    """Change the priority of a dataset that is not trained yet."""
    platform = _platform()
    facts = _facts(platform) or QueueFacts()
    dataset = set_priority(platform.workspace, key, priority.as_setting, facts.trained)
    typer.echo(f"{dataset.key}: priority {dataset.priority}")


@queue_app.command("retry")
@or_exit
def retry_command(
    key: Annotated[str | None, typer.Argument(help="The dataset's key, as `queue list --json` shows it.")] = None,
    retry_all: Annotated[bool, typer.Option("--all", help="Everything that is refused or set aside.")] = False,
) -> None:
    """Try a refused dataset, or one that was set aside, again."""
    if (key is None) != retry_all:
        raise SettingsError("name one key, or --all for everything that is refused or set aside")
    platform = _platform()
    facts = _facts(platform) or QueueFacts()
    keys = retryable(platform.workspace, facts) if key is None else [key]
    for found in keys:
        dataset = retry(platform.workspace, found, facts.scored)
        typer.echo(f"{dataset.key}: the next tick of the sensors tries it again")
    if not keys:
        typer.echo("nothing is set aside or refused that could be tried again")


def _platform() -> Platform:
    return Platform(load_settings())


def _facts(platform: Platform) -> QueueFacts | None:
    """What the home's Dagster instance knows; None if the home has none yet."""
    from gpu_assets.cli.queue_facts import open_instance, read_facts

    with open_instance(platform.workspace) as instance:
        return None if instance is None else read_facts(instance, platform)
