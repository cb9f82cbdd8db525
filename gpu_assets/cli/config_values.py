"""Every setting as a line: its name, its value and who set it. Reads what `settings` read, and prints nothing."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from gpu_assets.settings import ENV_PREFIX, SECRETS, Settings, settings_variables, values_by_source

MASK = "********"
DEFAULT = "default"


@dataclass(frozen=True)
class Field:
    """A field of the schema, by its dotted name."""

    key: str
    info: FieldInfo


@dataclass(frozen=True)
class Value:
    """A setting's value as JSON has it, and its source: default, a file, a variable of the environment, or --set."""

    key: str
    value: Any
    source: str


def fields(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[Field]:
    """Every field of the schema, sections opened, in the order of the schema."""
    for name, info in model.model_fields.items():
        below = info.annotation
        if isinstance(below, type) and issubclass(below, BaseModel):
            yield from fields(below, f"{prefix}{name}.")
        else:
            yield Field(prefix + name, info)


def values(settings: Settings, overrides: dict[str, str]) -> list[Value]:
    """Every setting, and which source gave it."""
    sources, variables = values_by_source(overrides), settings_variables()
    return [Value(field.key, _shown(settings, field.key), _source(field.key, sources, variables)) for field in fields()]


def variable_of(key: str) -> str:
    """The variable that sets a field."""
    return SECRETS.get(key) or ENV_PREFIX + key.replace(".", "__").upper()


def _shown(settings: Settings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Path):
        return str(value)
    return json.loads(json.dumps(value, default=lambda model: model.model_dump()))


def _source(key: str, sources: Mapping[str, Mapping[str, Any]], variables: Mapping[str, str]) -> str:
    for source, content in sources.items():
        if source == "environment":
            variable = _variable(key, variables)
            if variable is not None:
                return variable
        elif _has(content, key.split(".")):
            return source
    return DEFAULT


def _variable(key: str, variables: Mapping[str, str]) -> str | None:
    """The variable that sets the field, or a section around it; the field's own wins."""
    own = variable_of(key)
    if own in variables:
        return own
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        around = variable_of(".".join(parts[:length]))
        if around in variables and _has(json.loads(variables[around]), parts[length:]):
            return around
    return None


def _has(content: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(content, Mapping) or name not in content:
            return False
        content = content[name]
    return True
