"""`gpu-assets engine`: what serves models here, and how vLLM is installed beside it.

vLLM pins a torch of its own, so it gets a virtual environment outside the project's lock. Exit code 1: a step of the
installation failed; 2: it was refused, or a setting is wrong.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from gpu_assets.cli.failures import or_exit
from gpu_assets.errors import SettingsError
from gpu_assets.settings import Settings, load_settings
from serving.inference.host import gpus
from serving.inference.vllm_engine import vllm_venv

engine_app = typer.Typer(help="What serves models here, and vLLM's installation.", no_args_is_help=True)

VLLM_VERSION = "0.33.0"
VLLM_DISK_GB = 15
"""vLLM, its torch and the CUDA libraries that they bring, and as much again while pip unpacks."""
GB = 10**9


@engine_app.command("show")
@or_exit
def show_command() -> None:
    """Show the engine that is chosen, the GPUs, and whether vLLM is installed."""
    settings = load_settings()
    typer.echo(f"serving.engine: {settings.serving.engine}")
    found = gpus()
    for gpu in found.gpus:
        typer.echo(f"GPU: {gpu.name}, {gpu.memory_total_bytes / GB:.1f} GB")
    if not found.available:
        typer.echo(f"GPU: none; {found.why}")
    version = installed_version(vllm_venv(settings))
    typer.echo(f"vLLM: {version or 'not installed'}, in {vllm_venv(settings)}; this release is made for {VLLM_VERSION}")


@engine_app.command("install")
@or_exit
def install_command(
    engine: Annotated[Literal["vllm"], typer.Argument(help="What to install; hf comes with the platform.")],
    run: Annotated[bool, typer.Option("--run", help="Run the commands; without it they are printed.")] = False,
) -> None:
    """Print the commands that install vLLM, or run them; a GPU and room on the disk are asked for first."""
    settings = load_settings()
    venv = vllm_venv(settings)
    commands = install_commands(venv)
    if not run:
        for problem in problems(settings):
            typer.secho(f"note: {problem}", err=True)
        typer.echo("\n".join(shlex.join(command) for command in commands))
        return
    _refuse(settings)
    venv.parent.mkdir(parents=True, exist_ok=True)
    for command in commands:
        typer.echo(shlex.join(command))
        if code := subprocess.run(command).returncode:
            typer.secho(f"gpu-assets: that command ended with {code}; {engine} is not installed", err=True, fg="red")
            raise typer.Exit(1)
    typer.echo(
        f"{engine} {installed_version(venv)} is installed; set serving.engine to {engine} and restart the server"
    )


def install_commands(venv: Path) -> list[list[str]]:
    """A virtual environment, and vLLM with what it pins in it."""
    return [
        [sys.executable, "-m", "venv", str(venv)],
        [str(venv / "bin" / "python"), "-m", "pip", "install", f"vllm=={VLLM_VERSION}"],
    ]


def problems(settings: Settings) -> list[str]:
    """Why vLLM would not run or not fit here."""
    found = []
    if not (seen := gpus()).available:
        found.append(f"no GPU, and vLLM is used on a GPU only; {seen.why}")
    if (free := _free_bytes(vllm_venv(settings))) < VLLM_DISK_GB * GB:
        found.append(f"{free / GB:.1f} GB are free under {settings.home}, vLLM is given {VLLM_DISK_GB} GB")
    return found


def installed_version(venv: Path) -> str | None:
    """The version of vLLM in a virtual environment, from the name of its metadata."""
    found = sorted(venv.glob("lib/python3*/site-packages/vllm-*.dist-info"))
    return found[-1].name.removeprefix("vllm-").removesuffix(".dist-info") if found else None


def _refuse(settings: Settings) -> None:
    if found := problems(settings):
        raise SettingsError(
            f"vLLM is not installed: {'; '.join(found)}; serving.engine hf needs neither, and serving.vllm.venv may "
            "lie on another disk"
        )


def _free_bytes(folder: Path) -> int:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free
