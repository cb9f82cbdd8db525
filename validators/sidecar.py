"""The sidecar `<file>.meta.json`: who made a dataset, how, and what it wants to be."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from gpu_assets.errors import DatasetInvalid
from gpu_assets.settings import Priority
from validators.quoting import name_list, quote

MANUAL = "manual"
MAX_SIDECAR_BYTES = 2**20


@dataclass(frozen=True)
class Generator:
    """What makes datasets; `version` is its present one, older ones are known by their sidecars."""

    id: str
    version: str
    description: str


_ALL_GENERATORS = (
    Generator("discrimination", "1.0.0", "Right and wrong answers told apart."),
    Generator("syllo_local", "1.0.0", "Syllogisms, made on the trainer."),
    Generator("syllo_api", "1.0.0", "Syllogisms, asked of the skill's API."),
    Generator("curriculum", "1.0.0", "Whatever skill and level comes next."),
    Generator(MANUAL, "1.0.0", "Dropped by a person."),
    Generator("binary_api", "1.0.0", "Binary arithmetic, asked of the skill's API."),
)
GENERATORS: Mapping[str, Generator] = MappingProxyType({generator.id: generator for generator in _ALL_GENERATORS})
"""The closed registry; adding one object adds a generator."""


class Sidecar(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dataset's sidecar; every field may be missing.

    `inferred` is true where no sidecar names a generator, which is then `manual`: it is never
    guessed from a file name. It is no field of the file.
    """

    generator_id: str = MANUAL
    generator_version: str | None = None
    generated_at: datetime | None = None
    example_count: Annotated[int, msgspec.Meta(ge=0)] | None = None
    params: dict[str, Any] = {}
    validated_at: datetime | None = None
    validator_versions: dict[str, str] = {}
    validation_passed: bool | None = None
    validation_errors: list[str] = []
    validation_warnings: list[str] = []
    source: str | None = None
    extra: dict[str, Any] = {}
    schema_id: str | None = None
    priority: Priority | None = None
    inferred: bool = False

    def to_json(self) -> dict[str, Any]:
        """The fields that were given, and `inferred` where it is true."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return {"generator_id": self.generator_id, **values}


FIELDS = frozenset(Sidecar.__struct_fields__) - {"inferred"}


def read_sidecar(path: Path | None, name: str | None = None) -> Sidecar:
    """The sidecar at `path`; a missing one means a manual dataset, with `inferred` true.

    `name` is what sentences call it, the path unless given.

    Raises:
        DatasetInvalid: if it cannot be read, is over 1 MiB, not UTF-8, not JSON, not an object,
            or has an unknown key or a value of the wrong type.
    """
    name = name or str(path)
    try:
        data = _read(path, name) if path is not None else None
    except OSError as error:
        raise DatasetInvalid(f"sidecar {name} cannot be read: {error.strerror}") from None
    return Sidecar(inferred=True) if data is None else parse_sidecar(data, name)


def parse_sidecar(data: bytes, name: str) -> Sidecar:
    """A sidecar's bytes, typed; `name` is for sentences.

    Raises:
        DatasetInvalid: as `read_sidecar`.
    """
    values = _parse_object(data, name)
    unknown = values.keys() - FIELDS
    if unknown:
        raise DatasetInvalid(
            f"sidecar {name} has unknown key {name_list(unknown)}; known keys: {', '.join(sorted(FIELDS))}. "
            "Put what is your own under extra"
        )
    try:
        sidecar = msgspec.convert({key: msgspec.json.decode(raw) for key, raw in values.items()}, Sidecar)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DatasetInvalid(f"sidecar {name} has a value that does not fit: {str(error)[:200]}; correct it") from None
    return msgspec.structs.replace(sidecar, inferred="generator_id" not in values)


def _parse_object(data: bytes, name: str) -> dict[str, msgspec.Raw]:
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except UnicodeDecodeError as error:
        cause = f"is not UTF-8: {error.reason} at byte {error.start}"
    except msgspec.ValidationError as error:
        cause = f"is not a JSON object: {error}"
    except (msgspec.DecodeError, RecursionError) as error:
        cause = f"is not JSON: {error}"
    raise DatasetInvalid(f"sidecar {name} {cause}; correct it, or drop the dataset without a sidecar")


def _read(path: Path, name: str) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIDECAR_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_SIDECAR_BYTES:
        raise DatasetInvalid(
            f"sidecar {name} is over {MAX_SIDECAR_BYTES} bytes; a sidecar describes a file, it holds no rows"
        )
    return data


def check_generator(sidecar: Sidecar, name: str, *, allow_unregistered: bool = False) -> Sidecar:
    """The sidecar, of a registered generator; `name` is for the sentence.

    Where unregistered ones are allowed, theirs is a manual dataset with the id that was named under `extra`.

    Raises:
        DatasetInvalid: if the generator is not registered, and that is not allowed.
    """
    if sidecar.generator_id in GENERATORS:
        return sidecar
    if not allow_unregistered:
        raise DatasetInvalid(
            f"sidecar {name} names generator_id {quote(sidecar.generator_id)}, which is not registered; known "
            f"generators: {', '.join(GENERATORS)}. Name one of them, register it in validators/sidecar.py, or set "
            "validation.allow_unregistered_generators"
        )
    extra = {**sidecar.extra, "generator_id": sidecar.generator_id}
    return msgspec.structs.replace(sidecar, generator_id=MANUAL, extra=extra)
