"""Options that several commands have."""

from typing import Annotated

import typer

from gpu_assets.errors import SettingsError

LOG_WIDTH = 120
"""Columns where the output is not a terminal."""

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in hyperparams.seed=1; repeatable."),
]


def parse_overrides(assignments: list[str] | None) -> dict[str, str]:
    """`["a.b=1"]` to `{"a.b": "1"}`.

    Raises:
        SettingsError: if there is no `=`, no key, or the key twice.
    """
    overrides: dict[str, str] = {}
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--set {assignment!r} is not KEY=VALUE, as in --set hyperparams.seed=1")
        if key in overrides:
            raise SettingsError(f"--set gives {key!r} twice: {overrides[key]!r} and {value!r}; give it once")
        overrides[key] = value
    return overrides
