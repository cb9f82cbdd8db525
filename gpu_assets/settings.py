"""One frozen settings object, from config.json, hosts.json, the environment and overrides.

The only module that reads the environment. Precedence, lowest first: defaults, config.json,
`GPU_ASSETS_<SECTION>__<FIELD>` variables, overrides from a command line. Unknown keys are errors
everywhere. Common ground: imports nothing else of the project but hosts and errors.
"""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError as SourceError

from gpu_assets.errors import SettingsError
from gpu_assets.hosts import HostRegistry

ENV_PREFIX = "GPU_ASSETS_"
PROJECT_ROOT = Path(__file__).resolve().parent.parent
PRESET_PREFIX = "preset:"
Priority = Literal["high", "normal", "low"]


class Section(BaseModel):
    """A part of config.json: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Profile(Section):
    """How conversations are shaped before the chat template renders them."""

    name: str = Field("plain", description="A registered data profile; an unknown name is an error.")
    system_prompt: str | None = Field(
        None, description="Put before conversations that have no system message; None adds nothing."
    )


class AdamW(Section):
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(
        0.98, gt=0, lt=1, description="Decay of the second moment; 0.999 is slower where runs have hundreds of steps."
    )
    eps: float = Field(1e-8, gt=0, description="Keeps the update finite where the second moment is nought.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled: taken from the weights, not the gradient.")


class Muon(Section):
    """Muon for the hidden matrices (Jordan et al. 2024); the rest goes to AdamW."""

    learning_rate: float = Field(0.02, ge=1e-6, le=1, description="Peak for hidden matrices; shaped as learning_rate.")
    momentum: float = Field(0.95, ge=0, lt=1, description="Nesterov momentum.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled, of the hidden matrices.")


class Optimizer(Section):
    """Which optimizer, and the values of each."""

    type: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "muon"] = Field(
        "adamw",
        description="8-bit: states quantized in blocks. paged: states wait in host memory. Both need CUDA, extra gpu.",
    )
    adamw: AdamW = AdamW()
    muon: Muon = Muon()


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), merged into the weights when a checkpoint is published."""

    rank: int = Field(0, ge=0, le=1024, description="0 trains all weights.")
    alpha: float = Field(16, gt=0, description="The adapters' output is scaled by alpha / rank.")


class Hyperparams(Section):
    """Everything that decides the weights, together with the data."""

    batch_size: int = Field(64, ge=1, le=1024, description="Rows of one micro-batch, where they fit max_batch_tokens.")
    gradient_accumulation: int = Field(1, ge=1, le=128, description="Micro-batches of one optimizer step.")
    learning_rate: float = Field(2e-3, ge=1e-6, le=1e-2, description="Peak; constant between warm-up and decay.")
    warmup_steps: int = Field(50, ge=0, description="Linear warm-up of a new optimizer state, in optimizer steps.")
    decay_share: float = Field(
        0.1, ge=0, le=1, description="The last share of a run, over which the rate falls to a tenth of the peak."
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    num_epochs: int = Field(1, ge=1, le=100, description="Times that every accepted row is seen.")
    max_length: int = Field(512, ge=32, le=32768, description="Tokens of a row; longer rows are truncated.")
    max_batch_tokens: int = Field(
        16384, ge=128, description="Padded tokens of one micro-batch: bounds memory; long rows make smaller batches."
    )
    max_rows_per_run: int = Field(
        50_000, ge=1, description="Rows that one training run takes; at least one dataset is always taken."
    )
    save_steps: int = Field(
        100, ge=1, description="Optimizer steps between resume points: what a crash can cost at most."
    )
    fp_precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 on CUDA, fp32 on CPU. Weights and optimizer states are fp32 either way."
    )
    use_gradient_checkpointing: bool = Field(False, description="Less memory for about a third more compute.")
    compile: bool = Field(False, description="torch.compile the model: minutes at the start, faster steps on a GPU.")
    optimizer: Optimizer = Optimizer()
    lora: Lora = Lora()
    weights_precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16 halves weights and gradients, for models that fp32 does not fit; updates are rounded."
    )
    replay_share: float = Field(
        0.1, ge=0, lt=1, description="Rows of earlier datasets, as a share of the run's own, against forgetting."
    )
    max_loss_rise: float = Field(
        4.0, gt=1, description="A step's loss over this many times the median of the last ones is a spike: roll back."
    )
    seed: int = Field(42, ge=0, description="Of the preset's weights and of the row order.")


class Distributed(Section):
    """More than one process for one training run, each with a device of its own, started by `accelerate launch`."""

    processes: int = Field(1, ge=1, le=64, description="Processes; 1 trains in the run's own.")
    sharding: Literal["none", "full"] = Field(
        "none", description="none: a whole model each (DDP); full: weights, gradients and states are cut up (FSDP 2)."
    )


class Storage(Section):
    """What must stay free on the disk."""

    min_free_gb: float = Field(
        10.0, ge=0, description="Gigabytes (10^9 bytes) that are free after a checkpoint and its resume points."
    )


class AutoGenerate(Section):
    """What `gpu-assets generate` and the demo write into the inbox."""

    skill: Literal["binary"] = Field("binary", description="The generator.")
    level: int = Field(2, ge=1, description="The skill's level.")
    count: int = Field(24_000, ge=1, description="Rows of one file.")
    priority: Priority = Field("normal", description="The inbox folder it is dropped into.")


class Intake(Section):
    """When a file of the inbox counts as whole."""

    settle_s: float = Field(
        3.0, ge=0, le=3600, description="Seconds without a change; longer than a writer that closes in between pauses."
    )


Level = Literal["quick", "standard", "deep"]
Severity = Literal["warn", "reject_row", "reject_file"]


class SkillBounds(Section):
    """What rows of one skill are like; a file outside is reported."""

    min_tokens: int = Field(1, ge=0, description="Of a row, before any cut.")
    max_tokens: int = Field(2048, ge=1, description="Of a row, before any cut.")
    tolerance: float = Field(0.10, ge=0, le=1, description="Share of a skill's rows that may lie outside.")
    min_diversity: float | None = Field(None, ge=0, le=1, description="Distinct answers per answer; None: any.")


class SpecPolicy(Section):
    """How rows of one schema are validated."""

    level: Level | None = Field(None, description="None: validation.level.")


class GeneratorPolicy(Section):
    """How rows of one generator are validated; it goes before the schema's."""

    level: Level | None = Field(None, description="None: the schema's.")
    severities: dict[str, Severity] = Field({}, description="Rule id to severity, over validation.severities.")


class Validation(Section):
    """Thresholds of the two gates."""

    level: Level = Field("deep", description="How deep the platform looks before training.")
    specs: dict[str, SpecPolicy] = Field({}, description="By schema id.")
    generators: dict[str, GeneratorPolicy] = Field({}, description="By generator id.")
    severities: dict[str, Severity] = Field(
        {}, description="Rule id to severity: what a small skill repeats by nature is a defect in prose."
    )
    allow_unregistered_generators: bool = Field(
        False, description="Take datasets of generators that are not registered, as manual ones."
    )
    strict_columns: bool = Field(False, description="Refuse files with columns that the spec does not know.")
    max_rejected_share: float = Field(0.10, ge=0, le=1, description="A larger share of rejected rows blocks the file.")
    max_truncated_share: float = Field(0.05, ge=0, le=1, description="A larger share of truncated rows blocks it.")
    max_row_bytes: int = Field(4 * 2**20, ge=1024, description="A longer line is rejected unparsed.")
    max_prompt_ratio: float = Field(20, gt=0, description="Prompt to answer, in characters; answers of over 10 only.")
    max_answer_ratio: float = Field(50, gt=0, description="Answer to prompt, in characters.")
    max_answer_share: float = Field(0.50, gt=0, le=1, description="Rows with the commonest answer, of 100 and more.")
    near_duplicate_similarity: float = Field(0.8, ge=0.5, le=1, description="Jaccard similarity of token 5-grams.")
    boilerplate_items: int = Field(3, ge=2, description="What stands in so many evaluation items gives none away.")
    max_drift: float = Field(
        0.25, gt=0, description="Population stability index of row lengths against the generator's past."
    )
    skills: dict[str, SkillBounds] = Field(
        {
            "syllo": SkillBounds(min_tokens=20, max_tokens=2048, tolerance=0.10, min_diversity=0.80),
            "binary": SkillBounds(min_tokens=5, max_tokens=512, tolerance=0.50),
            "sparring": SkillBounds(min_tokens=5, max_tokens=2048, tolerance=0.50),
        },
        description="By a row's metadata.skill.",
    )


class Evaluation(Section):
    """How checkpoints are scored and compared."""

    level: int = Field(2, ge=1, description="Held-out problems of this level and all below are pooled into one set.")
    max_new_tokens: int = Field(64, ge=8, le=4096, description="Tokens of one answer; longer ones count as truncated.")
    concurrency: int = Field(64, ge=1, le=1024, description="Questions in flight at the inference server.")


class Serving(Section):
    """The inference server's engine."""

    max_context_tokens: int = Field(2048, ge=64, description="Prompt and answer of one request.")
    cache_tokens: int = Field(
        32_768, ge=1024, description="Key-value cache of one model in tokens: sized explicitly, never by free memory."
    )
    max_queue: int = Field(512, ge=1, description="Requests that wait before 429 is answered.")

    @model_validator(mode="after")
    def _cache_holds_a_request(self) -> "Serving":
        if self.cache_tokens < self.max_context_tokens:
            raise ValueError(
                f"serving.cache_tokens is {self.cache_tokens}, under serving.max_context_tokens, "
                f"{self.max_context_tokens}: a request of full length would not fit the cache; raise the former or "
                "lower the latter"
            )
        return self


class Locked(Section):
    """Enforced against the model that is really loaded."""

    base_model: str = "tiny"
    model_architecture: str = "Qwen3ForCausalLM"
    max_context_length: int = Field(2048, ge=32)
    vocab_size: int = Field(512, ge=1)


class Settings(BaseSettings):
    """All that a deployment decides. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, protected_namespaces=()
    )

    model_name: str = Field("tiny", description="Names the line of checkpoints in the UI and on the server.")
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
    config_file: Path = PROJECT_ROOT / "config.json"
    hosts_file: Path = PROJECT_ROOT / "hosts.json"
    inference_read_key: SecretStr | None = Field(None, validation_alias="INFERENCE_READ_KEY")
    inference_admin_key: SecretStr | None = Field(None, validation_alias="INFERENCE_ADMIN_KEY")

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
        read, admin = (
            None if key is None else key.get_secret_value()
            for key in (self.inference_read_key, self.inference_admin_key)
        )
        for variable, key in (("INFERENCE_READ_KEY", read), ("INFERENCE_ADMIN_KEY", admin)):
            if key is not None and not key.strip():
                raise ValueError(f"{variable} is empty: set a key, or unset it and one is made")
            if key is not None and key != key.strip():
                raise ValueError(f"{variable} begins or ends with a space, which no request can send: take it out")
        if read is not None and read == admin:
            raise ValueError(
                "INFERENCE_READ_KEY and INFERENCE_ADMIN_KEY are equal, so that whoever may ask could change what is "
                "served: set another one, or unset one and it is made"
            )
        return self

    @model_validator(mode="after")
    def _lengths_agree(self) -> "Settings":
        hyperparams, limit = self.hyperparams, self.locked.max_context_length
        if hyperparams.max_length > limit:
            raise ValueError(
                f"hyperparams.max_length is {hyperparams.max_length}, over locked.max_context_length, {limit}: "
                "lower the former"
            )
        if hyperparams.max_length > hyperparams.max_batch_tokens:
            raise ValueError(
                f"hyperparams.max_length is {hyperparams.max_length}, over hyperparams.max_batch_tokens, "
                f"{hyperparams.max_batch_tokens}: a row of full length would fit no batch"
            )
        return self

    @cached_property
    def hosts(self) -> HostRegistry:
        """The registry in `hosts_file`.

        Raises:
            SettingsError: if the file is missing, empty, not JSON, or not version 3.0.
        """
        try:
            return HostRegistry.model_validate(_read_json(self.hosts_file))
        except ValidationError as error:
            raise SettingsError(_explain(error, str(self.hosts_file))) from None

    @property
    def uses_preset(self) -> bool:
        return self.model_path.startswith(PRESET_PREFIX)


def load_settings(overrides: dict[str, str] | None = None) -> Settings:
    """Read config.json, hosts.json and the environment, once.

    Args:
        overrides: dotted field to text, as from `--set hyperparams.seed=1`; they win.

    Raises:
        SettingsError: if a file is missing or not JSON, a key is unknown, or a value is out of bounds.
    """
    _refuse_unknown_variables()
    config_file = Path(os.environ.get(f"{ENV_PREFIX}CONFIG_FILE", PROJECT_ROOT / "config.json"))
    _refuse_misplaced_keys(config_file, _read_json(config_file))
    try:
        settings = Settings(**_nest(overrides or {}))
    except ValidationError as error:
        raise SettingsError(_explain(error, str(config_file))) from None
    except SourceError as error:
        raise SettingsError(f"environment: {error}; a section's value is JSON") from None
    settings = settings.model_copy(update={"home": settings.home.expanduser().resolve()})
    _ = settings.hosts
    return settings


def environment_for(overrides: dict[str, str]) -> dict[str, str]:
    """The same overrides as variables, for child processes."""
    return {ENV_PREFIX + key.replace(".", "__").upper(): value for key, value in overrides.items()}


def _refuse_unknown_variables() -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if variable.startswith(ENV_PREFIX) and variable.split("__")[0].upper() not in known:
            raise SettingsError(f"{variable} is not a setting; known variables: {', '.join(sorted(known))}")


def _refuse_misplaced_keys(config_file: Path, values: dict[str, Any]) -> None:
    for key in ("home", "config_file", "hosts_file", "inference_read_key", "inference_admin_key"):
        if key in values or key.upper() in values:
            raise SettingsError(f"{config_file}: {key!r} is set in the environment, not in config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist; the repository ships one to copy") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds a {type(values).__name__}, not a JSON object")
    return values


def _nest(overrides: dict[str, str]) -> dict[str, Any]:
    """`{"a.b": "1"}` to `{"a": {"b": "1"}}`; pydantic turns the text into the field's type."""
    nested: dict[str, Any] = {}
    for dotted, value in overrides.items():
        *sections, field = dotted.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
        target[field] = value
    return nested


def _explain(error: ValidationError, source: str) -> str:
    """One line a problem: where, the value seen, what was wanted."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        seen = (
            "" if problem["type"] in ("extra_forbidden", "missing", "value_error") else f" (value {problem['input']!r})"
        )
        what = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {what}{seen}")
    return f"{source} or the environment: " + "; ".join(lines)
