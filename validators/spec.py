"""The spec gate: which schema a dataset has, denied by default.

A schema is one `DatasetSpec` in the closed registry `DATASET_SPECS`; adding one object adds a
schema. Without a name `messages` rows are chat_sft_v1 and `text` rows completion_v1; all else is
refused with a sentence. Knows nothing of rows' content: that is the content gate's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from gpu_assets.errors import DatasetInvalid
from validators.quoting import name_list, quote

VALIDATOR_NAME = "spec_validator"
VALIDATOR_VERSION = "1.1.0"

Kind = Literal["chat_sft", "completion"]
JOB_KEYS = ("dataset_path", "base_model")


@dataclass(frozen=True)
class TrainerArguments:
    """What training on rows of a schema needs: which tokens have a loss, and how long a row may be at most."""

    loss_on: Literal["assistant_turns", "all_tokens"]
    max_length: int = 4096


CHAT_TRAINER = TrainerArguments("assistant_turns")
COMPLETION_TRAINER = TrainerArguments("all_tokens")


@dataclass(frozen=True)
class DatasetSpec:
    """What rows of a schema hold and what a training job on them must name."""

    id: str
    kind: Kind
    required_columns: tuple[str, ...]
    optional_columns: tuple[str, ...] = ("metadata",)
    required_job_keys: tuple[str, ...] = JOB_KEYS
    required_metadata_keys: tuple[str, ...] = ()
    trainer: TrainerArguments = CHAT_TRAINER

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(self.required_columns + self.optional_columns)


_ALL_SPECS = (
    DatasetSpec("chat_sft_v1", "chat_sft", ("messages",), ("metadata", "system_prompt", "tags", "difficulty")),
    DatasetSpec("syllo_v1", "chat_sft", ("messages",), ("metadata", "difficulty", "category", "variant")),
    DatasetSpec("completion_v1", "completion", ("text",), trainer=COMPLETION_TRAINER),
)
DATASET_SPECS: Mapping[str, DatasetSpec] = MappingProxyType({spec.id: spec for spec in _ALL_SPECS})

UNNAMED: Mapping[str, str] = {"messages": "chat_sft_v1", "text": "completion_v1"}
"""The column that decides the schema of a dataset whose sidecar names none."""


@dataclass(frozen=True)
class SpecChoice:
    """The schema of a dataset; `named` is false where it follows from the columns."""

    spec: DatasetSpec
    named: bool
    unknown_columns: tuple[str, ...]


class SpecValidator:
    """Chooses and checks schemas against a closed registry."""

    def __init__(self, specs: Mapping[str, DatasetSpec] = DATASET_SPECS) -> None:
        self._specs = specs

    def choose(self, schema_id: str | None, columns: frozenset[str]) -> SpecChoice:
        """The schema of rows with these columns.

        Raises:
            DatasetInvalid: if the named schema is unknown or lacks a required column, or no name
                is given and the columns do not decide between the schemas.
        """
        spec = self._infer(columns) if schema_id is None else self._named(schema_id)
        missing = [column for column in spec.required_columns if column not in columns]
        if missing:
            raise DatasetInvalid(
                f"schema {spec.id} requires column {name_list(missing)}; the rows have {name_list(columns)}. "
                f"Correct the rows, or name another schema_id in the sidecar; {self._known()}"
            )
        return SpecChoice(spec, schema_id is not None, tuple(sorted(columns - spec.columns)))

    def validate_job(self, job_config: Mapping[str, Any], metadata: Mapping[str, Any]) -> DatasetSpec:
        """The schema that a training job names, in its config or else in the dataset's metadata.

        Raises:
            DatasetInvalid: if none is named, it is unknown, a key that it requires is missing, or the job's
                `max_length` is over the schema's.
        """
        schema_id = job_config.get("schema_id", metadata.get("schema_id"))
        if not isinstance(schema_id, str):
            raise DatasetInvalid(
                f"the job names no schema_id (value {schema_id!r}); "
                f"name it in the job or in the sidecar; {self._known()}"
            )
        spec = self._named(schema_id)
        _require(spec, "job", spec.required_job_keys, job_config)
        _require(spec, "metadata", spec.required_metadata_keys, metadata)
        max_length = job_config.get("max_length", spec.trainer.max_length)
        if max_length > spec.trainer.max_length:
            raise DatasetInvalid(
                f"schema {spec.id} takes rows of at most {spec.trainer.max_length:,} tokens; the job's max_length is "
                f"{max_length:,}: lower hyperparams.max_length, or register a schema for longer rows"
            )
        return spec

    def _named(self, schema_id: str) -> DatasetSpec:
        try:
            return self._specs[schema_id]
        except KeyError:
            raise DatasetInvalid(f"schema_id {quote(schema_id)} is not registered; {self._known()}") from None

    def _infer(self, columns: frozenset[str]) -> DatasetSpec:
        deciding = [column for column in UNNAMED if column in columns and UNNAMED[column] in self._specs]
        if len(deciding) == 1:
            return self._specs[UNNAMED[deciding[0]]]
        has = "both messages and text" if deciding else "neither messages nor text"
        raise DatasetInvalid(
            f"no schema_id is named and the rows have {has} (columns: {name_list(columns)}). "
            f"Name a schema_id in the sidecar, or correct the rows; {self._known()}"
        )

    def _known(self) -> str:
        known = (f"{spec.id} ({name_list(spec.required_columns)})" for spec in self._specs.values())
        return f"known schemas: {', '.join(known)}"


def _require(spec: DatasetSpec, what: str, keys: Iterable[str], values: Mapping[str, Any]) -> None:
    missing = [key for key in keys if values.get(key) in (None, "")]
    if missing:
        raise DatasetInvalid(
            f"schema {spec.id} requires {what} key {name_list(missing)}; the {what} has {name_list(values)}"
        )
