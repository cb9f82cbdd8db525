"""Errors that a person can act on, as one sentence and exit code 2."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from gpu_assets.errors import PlatformError

P = ParamSpec("P")
R = TypeVar("R")


def or_exit(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a `PlatformError` of a command into a sentence on standard error and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except PlatformError as error:
            typer.secho(f"gpu-assets: {error}", err=True, fg="red")
            raise typer.Exit(2) from None

    return wrapped
