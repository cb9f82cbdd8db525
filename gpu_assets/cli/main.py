"""`gpu-assets`: every command, mounted from the module that holds it when it is asked for.

So a command starts with what it needs itself: `validate` and `convert` load no Dagster.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = {
    "up": "gpu_assets.cli.up:up",
    "demo": "gpu_assets.cli.demo:demo",
    "init-model": "gpu_assets.cli.make:init_model",
    "generate": "gpu_assets.cli.make:generate",
    "validate": "gpu_assets.cli.validate:validate",
    "convert": "gpu_assets.cli.convert:convert",
    "lineage": "gpu_assets.cli.lineage:lineage",
    "queue": "gpu_assets.cli.queue:queue_app",
    "config": "gpu_assets.cli.config:config_app",
    "engine": "gpu_assets.cli.engine:engine_app",
    "plan": "gpu_assets.cli.plan:plan",
    "control": "gpu_assets.cli.control:control_app",
    "chat": "gpu_assets.cli.chat:chat",
}
"""Name to module and attribute: a function, or a `Typer` with commands of its own."""


class LazyCommands(TyperGroup):
    """Knows the names of its commands and imports only those that are asked for; all to list or suggest them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | TyperGroup | None:
        for name in [cmd_name] if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                self.commands[name] = _load(name)
        return self.commands.get(cmd_name)  # type: ignore[return-value]


app = typer.Typer(
    name="gpu-assets",
    cls=LazyCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def print_version(wanted: bool) -> None:
    """Print the installed version and exit."""
    if wanted:
        try:
            typer.echo(version("gpu-assets"))
        except PackageNotFoundError:
            typer.echo("not installed; run: make install")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Continuous fine-tuning as Dagster assets: from a file in the inbox to a served model."""


def _load(name: str) -> TyperCommand | TyperGroup:
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)  # type: ignore[return-value]
