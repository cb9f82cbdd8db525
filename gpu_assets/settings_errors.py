"""What pydantic found wrong with the settings, as sentences: where, the value seen, what was wanted, and whose it is.

Common ground: imports nothing else of the project.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

KEY_PROBLEM = "key_problem"
"""The type of errors about keys, which are in no file."""


def problems(error: ValidationError, below: str = "") -> list[str]:
    """A sentence a problem: where, the value seen, what was wanted."""
    return [_sentence(problem, below) for problem in error.errors()]


def problems_by_source(error: ValidationError, config_file: Path, overrides: dict[str, Any]) -> list[str]:
    """The same, those of a source behind its name."""
    by_source: dict[str, list[str]] = {}
    for problem in error.errors():
        is_of_key = problem["type"] == KEY_PROBLEM
        source = "environment" if is_of_key else _source(problem["loc"], config_file, overrides)
        by_source.setdefault(source, []).append(_sentence(problem, ""))
    return [f"{source}: {'; '.join(sentences)}" for source, sentences in by_source.items()]


def _source(place: Sequence[int | str], config_file: Path, overrides: Any) -> str:
    """Who can have set what is wrong at a place; where it is about several fields, all that set some of them."""
    for part in place:
        if isinstance(overrides, str):
            break
        if part not in overrides:
            return f"{config_file} or the environment"
        overrides = overrides[part]
    if isinstance(overrides, str):
        return "--set"
    return f"{config_file}, the environment or --set" if overrides else f"{config_file} or the environment"


def _sentence(problem: ErrorDetails, below: str) -> str:
    where = ".".join(str(part) for part in (below, *problem["loc"]) if part != "") or "settings"
    if problem["type"] in ("value_error", KEY_PROBLEM):  # a rule of ours, which names its fields
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key{_nested_instead(str(problem['loc'][-1]), problem['input'])}"
    seen = "" if problem["type"] == "missing" else f" (value {problem['input']!r})"
    return f"{where}: {problem['msg']}{seen}"


def _nested_instead(key: str, value: Any) -> str:
    """What to write in the place of a key with a dot, which people take for a path; nothing for another."""
    if "." not in key:
        return ""
    for part in reversed(key.split(".")):
        value = {part: value}
    written = json.dumps(value, ensure_ascii=False, default=str)
    return f'; the key "{key}" has a dot, which is no path in JSON: write {written}'
