"""`gpu-assets`: every command, mounted from the module that holds it."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from gpu_assets.cli.demo import demo
from gpu_assets.cli.make import generate, init_model
from gpu_assets.cli.queue import queue_app
from gpu_assets.cli.up import up

app = typer.Typer(
    name="gpu-assets",
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


app.command()(up)
app.command()(demo)
app.command("init-model")(init_model)
app.command()(generate)
app.add_typer(queue_app, name="queue")
