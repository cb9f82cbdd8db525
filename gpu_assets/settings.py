"""One frozen settings object, from config.json, hosts.json, the environment and overrides.

The only module that reads the environment. Precedence, lowest first: defaults, config.json,
`GPU_ASSETS_<SECTION>__<FIELD>` variables, overrides from a command line. Unknown keys are errors
everywhere. Common ground: imports nothing else of the project but hosts and errors.
"""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError as SourceError

from gpu_assets.errors import SettingsError
from gpu_assets.hosts import HostRegistry
from gpu_assets.sections import (
    AutoGenerate,
    Evaluation,
    GeneratorPolicy,
    Intake,
    Level,
    Locked,
    Priority,
    Profile,
    Section,
    Serving,
    Severity,
    SkillBounds,
    SpecPolicy,
    Storage,
    Validation,
    Vllm,
)
from gpu_assets.service_variables import ServiceVariables, read_service_variables
from gpu_assets.settings_errors import KEY_PROBLEM, problems, problems_by_source
from gpu_assets.training_sections import AdamW, Distributed, Hyperparams, Lora, Muon, Optimizer

__all__ = [
    "ENV_PREFIX",
    "PRESET_PREFIX",
    "PROJECT_ROOT",
    "SECRETS",
    "AdamW",
    "AutoGenerate",
    "Distributed",
    "Evaluation",
    "GeneratorPolicy",
    "Hyperparams",
    "Intake",
    "Level",
    "Locked",
    "Lora",
    "Muon",
    "Optimizer",
    "Priority",
    "Profile",
    "Section",
    "Serving",
    "Settings",
    "Severity",
    "SkillBounds",
    "SpecPolicy",
    "Storage",
    "Validation",
    "Vllm",
    "environment_for",
    "environment_with",
    "load_settings",
    "service_variables",
    "settings_problems",
    "settings_variables",
    "split_keys",
    "values_by_source",
]

ENV_PREFIX = "GPU_ASSETS_"
PROJECT_ROOT = Path(__file__).resolve().parent.parent
PRESET_PREFIX = "preset:"
ENVIRONMENT_ONLY = ("home", "config_file", "hosts_file", "inference_read_key", "inference_admin_key")
SECRETS = {"inference_read_key": "INFERENCE_READ_KEY", "inference_admin_key": "INFERENCE_ADMIN_KEY"}
"""Field to variable; never shown."""


class Settings(BaseSettings):
    """All that a deployment decides. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, protected_namespaces=()
    )

    model_name: str = Field(
        "tiny",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$",
        description="Names the line of checkpoints in the UI, on the server and in a folder of TensorBoard's: 1 to 100 "
        "of A-Z, a-z, 0-9, '.', '_' and '-', no dot first.",
    )
    model_path: str = Field("preset:tiny", description="A model folder, relative to <home>/models, or preset:tiny.")
    profile: Profile = Profile()
    hyperparams: Hyperparams = Hyperparams()
    distributed: Distributed = Distributed()
    storage: Storage = Storage()
    auto_generate: AutoGenerate = AutoGenerate()
    intake: Intake = Intake()
    validation: Validation = Validation()
    evaluation: Evaluation = Evaluation()
    serving: Serving = Serving()
    locked: Locked = Locked()

    home: Path = Field(PROJECT_ROOT / "var", description="Where all data lies.")
    config_file: Path = Field(PROJECT_ROOT / "config.json", description="What this page describes, as JSON.")
    hosts_file: Path = Field(PROJECT_ROOT / "hosts.json", description="Every address and port.")
    inference_read_key: SecretStr | None = Field(
        None,
        validation_alias="INFERENCE_READ_KEY",
        description="May ask the inference server: one key, or several between commas; unset, one is made.",
    )
    inference_admin_key: SecretStr | None = Field(
        None,
        validation_alias="INFERENCE_ADMIN_KEY",
        description="May also change what is served: one key, or several between commas; unset, one is made.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        config_file = init_settings().get("config_file") or env_settings().get("config_file")
        json_file = Path(config_file or PROJECT_ROOT / "config.json")
        return init_settings, env_settings, JsonConfigSettingsSource(settings_cls, json_file=json_file)

    @model_validator(mode="after")
    def _keys_are_keys(self) -> "Settings":
        for name, variable in SECRETS.items():
            problem = _key_problem(getattr(self, name))
            if problem is not None:
                raise PydanticCustomError(KEY_PROBLEM, "{message}", {"message": f"{variable} {problem}"})
        if set(split_keys(self.inference_read_key)) & set(split_keys(self.inference_admin_key)):
            raise PydanticCustomError(
                KEY_PROBLEM,
                "INFERENCE_READ_KEY and INFERENCE_ADMIN_KEY are equal, or have a key in common, so that whoever may "
                "ask could change what is served: set another one, or unset one and it is made",
            )
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> "Settings":
        problem = next(self._disagreements(), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    def _disagreements(self) -> Iterator[str]:
        """What is wrong between sections, each with the names and values of both fields."""
        hyperparams, serving, limit = self.hyperparams, self.serving, self.locked.max_context_length
        if hyperparams.max_length > limit:
            yield (
                f"hyperparams.max_length is {hyperparams.max_length}, over locked.max_context_length, {limit}: "
                "lower the former"
            )
        if serving.max_context_tokens > limit:
            yield (
                f"serving.max_context_tokens is {serving.max_context_tokens}, over locked.max_context_length, {limit}: "
                "lower the former"
            )
        if self.evaluation.max_new_tokens >= serving.max_context_tokens:
            yield (
                f"evaluation.max_new_tokens is {self.evaluation.max_new_tokens}, which leaves no room for a question "
                f"in serving.max_context_tokens, {serving.max_context_tokens}: lower the former or raise the latter"
            )
        optimizer = hyperparams.optimizer.type
        if self.distributed.sharding == "full" and optimizer != "adamw":
            yield (
                f"distributed.sharding is full, but hyperparams.optimizer.type is {optimizer}, whose states cannot be "
                "cut up: set sharding to none or the optimizer to adamw"
            )

    def with_hyperparams(self, changes: Mapping[str, Any]) -> "Settings":
        """These settings with some hyperparameters changed, by the same schema and rules.

        Args:
            changes: as the section in config.json; sections within it are merged.

        Raises:
            SettingsError: if a key is unknown, or a value is out of bounds or contradicts another.
        """
        merged = _merge(self.hyperparams.model_dump(), changes)
        try:
            changed = self.model_copy(update={"hyperparams": Hyperparams.model_validate(merged)})
        except ValidationError as error:
            raise SettingsError("; ".join(problems(error, "hyperparams"))) from None
        problem = next(changed._disagreements(), None)
        if problem is not None:
            raise SettingsError(problem)
        return changed

    @cached_property
    def hosts(self) -> HostRegistry:
        """The registry in `hosts_file`.

        Raises:
            SettingsError: if the file is missing, empty, not JSON, or not version 3.0.
        """
        try:
            return HostRegistry.model_validate(_read_json(self.hosts_file))
        except ValidationError as error:
            raise SettingsError(f"{self.hosts_file}: " + "; ".join(problems(error))) from None

    @property
    def uses_preset(self) -> bool:
        return self.model_path.startswith(PRESET_PREFIX)


def split_keys(value: SecretStr | None) -> tuple[str, ...]:
    """The keys of a variable that holds one, or several between commas; none where it is unset."""
    return () if value is None else tuple(key.strip() for key in value.get_secret_value().split(","))


def _key_problem(value: SecretStr | None) -> str | None:
    """Why a variable holds no keys, without showing them."""
    if value is None:
        return None
    text, keys = value.get_secret_value(), split_keys(value)
    if not text.strip():
        return "is empty: set a key, or unset it and one is made"
    if text != text.strip():
        return "begins or ends with a space, which no request can send: take it out"
    if "" in keys:
        return "has nothing before, after or between its commas: take a comma out"
    if not text.isprintable():
        return "has a character that no request can send: take it out"
    return "has a key twice: leave one" if len(set(keys)) < len(keys) else None


def load_settings(overrides: dict[str, str] | None = None) -> Settings:
    """Read config.json, hosts.json and the environment, once.

    Args:
        overrides: dotted field to text, as from `--set hyperparams.seed=1`; they win.

    Raises:
        SettingsError: if a file is missing or not JSON, a key is unknown, or a value is out of bounds.
    """
    config_file = _config_file()
    try:
        settings = _read_settings(config_file, overrides or {})
    except ValidationError as error:
        raise SettingsError("; ".join(problems_by_source(error, config_file, _nest(overrides or {})))) from None
    settings = settings.model_copy(update={"home": settings.home.expanduser().resolve()})
    _ = settings.hosts
    return settings


def settings_problems(config_file: Path | None = None, overrides: dict[str, str] | None = None) -> list[str]:
    """A sentence for each thing that is wrong in a file as the environment and then the overrides change it.

    Args:
        config_file: None is the file in use.
        overrides: as `load_settings` takes them.
    """
    given = overrides or {}
    file = config_file or Path(given.get("config_file", _config_file()))
    try:
        _ = _read_settings(file, given | {"config_file": str(file)}).hosts
    except ValidationError as error:
        return problems(error)
    except SettingsError as error:
        return [str(error)]
    return []


def values_by_source(overrides: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What each source sets, nested as in config.json; the source's name to its values, the one that wins first."""
    config_file = _config_file()
    return {
        "--set": _nest(overrides),
        "environment": EnvSettingsSource(Settings)(),
        str(config_file): _read_json(config_file),
    }


def settings_variables() -> dict[str, str]:
    """The variables of the environment that set something, in capitals, each to its value."""
    names = set(SECRETS.values())
    return {
        variable.upper(): value
        for variable, value in sorted(os.environ.items())
        if variable.upper().startswith(ENV_PREFIX) or variable.upper() in names
    }


def service_variables(service: str) -> ServiceVariables:
    """What the environment says of a service's client, under the service's name in capitals.

    Raises:
        SettingsError: if a variable is out of bounds.
    """
    return read_service_variables(service, os.environ)


def _config_file() -> Path:
    return Path(os.environ.get(f"{ENV_PREFIX}CONFIG_FILE", PROJECT_ROOT / "config.json"))


def _read_settings(config_file: Path, overrides: dict[str, str]) -> Settings:
    _refuse_unknown_variables()
    _refuse_misplaced_keys(config_file, _read_json(config_file))
    try:
        return Settings(**_nest(overrides))
    except SourceError as error:
        raise SettingsError(f"environment: {error}; a section's value is JSON") from None


def environment_for(overrides: dict[str, str]) -> dict[str, str]:
    """The same overrides as variables, for child processes."""
    return {ENV_PREFIX + key.replace(".", "__").upper(): value for key, value in overrides.items()}


def environment_with(**changes: str | None) -> dict[str, str]:
    """This process's environment for a child, changed; None leaves a variable out."""
    return {name: value for name, value in (os.environ | changes).items() if value is not None}


def _refuse_unknown_variables() -> None:
    known = {SECRETS.get(name, ENV_PREFIX + name.upper()) for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if variable.startswith(ENV_PREFIX) and variable.split("__")[0].upper() not in known:
            raise SettingsError(f"{variable} is not a setting; known variables: {', '.join(sorted(known))}")


def _refuse_misplaced_keys(config_file: Path, values: dict[str, Any]) -> None:
    for key in ENVIRONMENT_ONLY:
        if key in values or key.upper() in values:
            raise SettingsError(f"{config_file}: {key!r} is set in the environment, not in config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist; the repository ships one to copy") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}; wanted a JSON file") from None
    except _Repeated as error:
        raise SettingsError(f"{path} names {error} twice in one object; leave one") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds a {type(values).__name__}, not a JSON object")
    return values


class _Repeated(Exception):
    """A key that is there twice."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise _Repeated(repr(key))
    return dict(pairs)


def _nest(overrides: dict[str, str]) -> dict[str, Any]:
    """`{"a.b": "1"}` to `{"a": {"b": "1"}}`; pydantic turns the text into the field's type."""
    nested: dict[str, Any] = {}
    for dotted, value in overrides.items():
        *sections, field = dotted.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise SettingsError(f"--set gives {section!r}, and {dotted!r} within it; give one of them")
        if isinstance(target.get(field), dict):
            raise SettingsError(f"--set gives {dotted!r}, and something within it; give one of them")
        target[field] = value
    return nested


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the changes over them, section by section."""
    merged = dict(values)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged
