"""docs/configuration.md, made from the schema: `python -m gpu_assets.cli.config_docs > docs/configuration.md`."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gpu_assets.cli.config_values import Field, fields, variable_of
from gpu_assets.settings import ENVIRONMENT_ONLY, PROJECT_ROOT, Settings

HEAD = """\
# Configuration

Made from `gpu_assets/sections.py`, `training_sections.py` and `settings.py` by `python -m gpu_assets.cli.config_docs`;
a test holds this page equal to them.

Lowest first: the defaults below, `config.json`, the environment, `--set KEY=VALUE` of a command, and for one training
run the `hyperparams` of its run config in Dagster. A field `a.b` is the variable `GPU_ASSETS_A__B`; a whole section can
be given as JSON in `GPU_ASSETS_A`. A key that is not known is an error everywhere.

```
gpu-assets config show                           # every value, and which file, variable or option it comes from
gpu-assets config show --set hyperparams.seed=1  # the same with an override; --json for programs
gpu-assets config check                          # a sentence for each thing that is wrong; exit code 1 if there is one
gpu-assets config check other.json               # of another file; --set here too
gpu-assets plan --gpu-gb 24                      # whether training fits such a GPU
```

The hyperparameters of a checkpoint are in its manifest, with their hash.
"""

BOUNDS = {"ge": "at least", "gt": "over", "le": "at most", "lt": "under"}


def markdown() -> str:
    """The whole page."""
    parts, sections = [HEAD], defaultdict[str, list[Field]](list)
    for field in fields():
        sections[field.key.rpartition(".")[0]].append(field)
    for section, listed in sections.items():
        parts += _part(section, [field for field in listed if field.key not in ENVIRONMENT_ONLY])
        parts += _environment([field for field in listed if field.key in ENVIRONMENT_ONLY])
    return "\n".join(parts)


def _part(section: str, listed: list[Field]) -> Iterator[str]:
    if listed:
        yield f"## {section or 'Top level'}\n"
        yield f"{_about(section)}\n" if section else "What is trained, and under which name.\n"
        yield "| field | default | values | |\n|---|---|---|---|"
        for field in listed:
            name, info = field.key.rpartition(".")[2], field.info
            yield _row(f"`{name}`", f"`{_default(info)}`", _bounds(info), info.description or "")
        yield ""


def _environment(listed: list[Field]) -> Iterator[str]:
    if listed:
        yield "## Of the environment alone\n"
        yield "| variable | default | |\n|---|---|---|"
        for field in listed:
            yield _row(f"`{variable_of(field.key)}`", f"`{_default(field.info)}`", field.info.description or "")
        yield ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("<", "&lt;") for cell in cells) + " |"


def _about(section: str) -> str:
    model: type[BaseModel] = Settings
    for name in section.split("."):
        below = model.model_fields[name].annotation
        assert isinstance(below, type) and issubclass(below, BaseModel)
        model = below
    return " ".join((model.__doc__ or "").split())


def _default(info: FieldInfo) -> str:
    default = info.default
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, Path):
        return str(default.relative_to(PROJECT_ROOT))
    return json.dumps(default, default=lambda model: model.model_dump(exclude_defaults=True))


def _bounds(info: FieldInfo) -> str:
    limits = [
        f"{words} {getattr(limit, name):g}"
        for limit in info.metadata
        for name, words in BOUNDS.items()
        if hasattr(limit, name)
    ]
    return ", ".join([_type(info.annotation), *limits])


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if isinstance(annotation, UnionType):
        return " or ".join(_type(part) for part in get_args(annotation))
    if get_origin(annotation) is dict:
        return "an object"
    names = {str: "text", int: "a whole number", float: "a number", bool: "`true` or `false`", NoneType: "`null`"}
    return names.get(annotation, "a path" if annotation is Path else "a key" if annotation is SecretStr else "")


if __name__ == "__main__":
    sys.stdout.write(markdown())
