"""`gpu-assets up`: the whole platform on this machine, until Ctrl-C."""

import shlex
import time

import typer
from rich.console import Console

from gpu_assets.cli.failures import or_exit
from gpu_assets.cli.options import SetOption, parse_overrides
from gpu_assets.cli.supervisor import LOOK_EVERY_S, Supervisor, describe_stop
from gpu_assets.errors import ServiceError
from gpu_assets.settings import ENV_PREFIX, Settings, environment_for, load_settings
from resources.workspace import Workspace


@or_exit
def up(set_: SetOption = None) -> None:
    """Start the inference server and Dagster, watch over them, and stop both on Ctrl-C."""
    overrides = parse_overrides(set_)
    settings = load_settings(overrides)
    console = Console()
    try:
        with Supervisor(settings, overrides, console) as platform:
            platform.wait_healthy()
            announce(platform, console)
            while True:
                time.sleep(LOOK_EVERY_S)
                platform.watch_once()
    except KeyboardInterrupt as stop:
        console.print(describe_stop(stop))
    except ServiceError as error:
        typer.secho(f"gpu-assets: {error}", err=True, fg="red")
        raise typer.Exit(1) from None


def announce(platform: Supervisor, console: Console) -> None:
    """Print where everything is."""
    lines = [
        f"Dagster           {platform.urls['dagster']}",
        f"chat completions  {platform.urls['inference']}/v1/chat/completions",
        f"inbox             {platform.workspace.inbox}",
        f"logs              {platform.workspace.logs}",
        "for `dagster asset materialize -m gpu_assets.definitions --select ...` in another terminal:",
        f"  {export_line(platform.settings, platform.overrides)}",
        "Ctrl-C stops everything",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def export_line(settings: Settings, overrides: dict[str, str]) -> str:
    """The one line that makes Dagster's own commands use this home and these settings."""
    variables = {"DAGSTER_HOME": str(Workspace(settings.home).dagster)}
    for name in ("home", "config_file", "hosts_file"):
        value = getattr(settings, name)
        if value != Settings.model_fields[name].default:
            variables[f"{ENV_PREFIX}{name.upper()}"] = str(value)
    variables |= environment_for(overrides)
    return "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
