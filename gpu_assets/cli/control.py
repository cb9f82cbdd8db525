"""`gpu-assets control`: hold training, let it go on, and set datasets aside, through Dagster.

Dagster is imported inside the commands, which keeps `gpu-assets --help` quick. Exit code 1: there was nothing to do
it to; 2: it could not be done.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gpu_assets.cli.failures import or_exit
from gpu_assets.errors import SettingsError
from gpu_assets.settings import load_settings
from resources.platform import Platform

if TYPE_CHECKING:
    from gpu_assets.cli.control_runs import Control, Done

control_app = typer.Typer(
    help="Hold training and let it go on; each command ends runs with a resume point.", no_args_is_help=True
)

ReasonOption = Annotated[str, typer.Option(help="Shown in Dagster: on the run, at the asset and in the sensor's tick.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


@control_app.command("status")
@or_exit
def status_command(as_json: JsonOption = False) -> None:
    """Show what trains, or what holds training."""
    with _control() as control:
        status = control.status()
    typer.echo(json.dumps(asdict(status), indent=2) if as_json else f"{status.state}: {status.sentence}")


@control_app.command("pause")
@or_exit
def pause_command(reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """End the training run and start no other until `resume`: the trainer's pool gets a limit of 0."""
    _do(lambda control: control.pause(reason), as_json)


@control_app.command("resume")
@or_exit
def resume_command(reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Let training go on after `pause` or `stop`, from its resume point where it has one."""
    _do(lambda control: control.resume(reason), as_json)


@control_app.command("stop")
@or_exit
def stop_command(reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """End the training run; training goes on with `resume`, or when a new dataset is taken in."""
    _do(lambda control: control.stop(reason), as_json)


@control_app.command("skip")
@or_exit
def skip_command(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Without one: what trains now.")] = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Set datasets aside until `queue retry KEY`, and go on with the others."""
    _do(lambda control: control.skip(keys or [], reason), as_json)


def _do(command: "Callable[[Control], Done]", as_json: bool) -> None:
    with _control() as control:
        done = command(control)
    typer.echo(json.dumps(asdict(done), indent=2) if as_json else done.sentence)
    if not done.found:
        raise typer.Exit(1)


@contextmanager
def _control() -> "Iterator[Control]":
    from gpu_assets.cli.control_runs import Control
    from gpu_assets.cli.queue_facts import open_instance

    platform = Platform(load_settings())
    with open_instance(platform.workspace) as instance:
        if instance is None:
            raise SettingsError(
                f"{platform.workspace.home} has no Dagster instance yet, so nothing trains there; start `gpu-assets up`"
            )
        yield Control(platform, instance)
