"""The sections of config.json: every field with its type, bounds, unit, and the reason for its default.

Training's are in `training_sections`. Rules that hold within one section are beside its fields, those over several in
`Settings`. Common ground: imports nothing else of the project. docs/configuration.md is made from it.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Priority = Literal["high", "normal", "low"]


class Section(BaseModel):
    """A part of config.json: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Profile(Section):
    """How conversations are shaped before the chat template renders them."""

    name: str = Field("plain", description="A registered data profile; an unknown name is an error.")
    system_prompt: str | None = Field(
        None,
        description="Put before conversations that have no system message; null takes the profile's own, of which "
        "plain has none, an empty text adds none.",
    )


class Storage(Section):
    """What must stay free on the disk."""

    min_free_gb: float = Field(
        10.0,
        ge=0,
        description="Gigabytes (10^9 bytes) that are free after a checkpoint and its resume points: room for Dagster's "
        "database and the system's logs, which a full disk breaks.",
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


class Vllm(Section):
    """vLLM as the engine: a process a model, in a virtual environment outside the project's lock."""

    venv: str = Field("engines/vllm", min_length=1, description="Its virtual environment, relative to <home>.")
    arguments: tuple[str, ...] = Field((), description="Further arguments of `vllm serve`; they win over ours.")
    max_sequences: int = Field(
        128, ge=1, le=4096, description="Requests in one batch; more take more memory for CUDA graphs and logits."
    )
    free_memory_share: float = Field(
        0.3,
        gt=0,
        le=1,
        description="Share of the GPU's memory that is free when a process starts, or it does not: three fit beside "
        "each other. It reserves nothing; weights and cache_tokens decide what is taken.",
    )
    start_timeout_s: float = Field(
        300, ge=1, le=3600, description="Seconds until a process answers: weights are read and CUDA graphs captured."
    )


class Serving(Section):
    """The inference server's engine."""

    engine: Literal["hf", "vllm"] = Field(
        "hf",
        description="hf: transformers' continuous batching in the server, on CPU or CUDA. vllm: a process a model on "
        "a GPU, installed by `gpu-assets engine install vllm`; faster for many users, without profiles' logits "
        "processors.",
    )
    vllm: Vllm = Vllm()

    max_context_tokens: int = Field(2048, ge=64, description="Prompt and answer of one request.")
    cache_tokens: int = Field(
        32_768, ge=1024, description="Key-value cache of one model in tokens: sized explicitly, never by free memory."
    )
    prefix_sharing: bool = Field(
        True,
        description="Requests to one model share the cached pages of a common prefix, such as a system prompt, which "
        "answers the same and sooner. Whoever has a key can tell by the time whether another sent the same beginning "
        "lately: turn it off where that matters.",
    )
    max_queue: int = Field(512, ge=1, description="Requests that wait before 429 is answered.")
    requests_per_minute: int = Field(
        0,
        ge=0,
        le=60_000,
        description="Requests to /v1 that a read key may make within any minute before 429 is answered; 0: as many as "
        "it likes, since most servers have one user. Admin keys have no limit: the platform scores with one.",
    )
    max_concurrent_requests: int = Field(
        256,
        ge=0,
        description="Requests to /v1 that a read key may have in flight before 429 is answered, streams until their "
        "end; 0: as many as it likes. Half of what max_queue holds, so that one key leaves room for another. Admin "
        "keys have no limit.",
    )
    max_body_mb: int = Field(
        1, ge=1, le=64, description="Mebibytes of a request's body; over it, 413: the longest context fits many times."
    )
    head_timeout_s: float = Field(
        10,
        gt=0,
        le=600,
        description="Seconds until the head of a request is complete, from the connection or the last answer; then 408 "
        "and the connection is closed, for one that never ends it would stay for ever.",
    )
    body_timeout_s: float = Field(
        30,
        gt=0,
        le=600,
        description="Seconds until the body is complete, from its head on; then 408. 1 MiB at 35 KB/s.",
    )
    send_timeout_s: float = Field(
        30,
        gt=0,
        le=600,
        description="Seconds in which a client must take 1 KiB of an answer that waits for it, or the rest; else its "
        "connection is cut and its generation cancelled.",
    )
    max_models: int = Field(
        3,
        ge=2,
        le=64,
        description="Models that are held at once: the champion, the one before it, to which a rollback is a flip, and "
        "a candidate.",
    )
    memory_reserve_gb: float = Field(
        1.0,
        ge=0,
        description="Gigabytes (10^9 bytes) of the device's memory that stay free beside a model's weights and cache: "
        "for activations, and on a CPU for everything else that runs there.",
    )

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

    base_model: str = Field("tiny", description="The name that the base model was published under.")
    model_architecture: str = Field("Qwen3ForCausalLM", description="`architectures` of its config.json.")
    max_context_length: int = Field(2048, ge=32, description="Tokens that it takes at most.")
    vocab_size: int = Field(512, ge=1, description="Rows of its embedding.")
