"""The sections of config.json: every field with its type, bounds, unit, and the reason for its default.

Rules that hold within one section are here, those over several in `Settings`. Common ground: imports nothing else of
the project. docs/configuration.md is made from it.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Priority = Literal["high", "normal", "low"]
MAX_BF16_BETA2 = 0.996
"""A number of bf16 times more than 1 - 2 ** -8 can be rounded back to itself."""


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


class AdamW(Section):
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(
        0.98, gt=0, lt=1, description="Decay of the second moment; 0.999 is slower where runs have hundreds of steps."
    )
    eps: float = Field(1e-8, gt=0, description="Keeps the update finite where the second moment is nought.")
    weight_decay: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Decoupled: taken from the weights, not the gradient; from all of them, norms and biases too.",
    )


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

    @property
    def bf16_problem(self) -> str | None:
        """Why bf16 weights cannot be trained so, and what to set instead; None if they can."""
        if self.type == "muon":
            return (
                "hyperparams.weights_precision is bf16, but hyperparams.optimizer.type is muon, whose updates would be "
                "rounded to the nearest and mostly lost: set the precision to fp32 or the optimizer to adamw_8bit"
            )
        if self.type == "adamw" and self.adamw.beta2 > MAX_BF16_BETA2:
            return (
                f"hyperparams.optimizer.adamw.beta2 is {self.adamw.beta2}, but a second moment in bf16, as "
                f"hyperparams.weights_precision is, does not shrink by it: lower beta2 to {MAX_BF16_BETA2}, or set the "
                "precision to fp32 or the optimizer to adamw_8bit or paged_adamw"
            )
        return None


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), merged into the weights when a checkpoint is published."""

    rank: int = Field(0, ge=0, le=1024, description="0 trains all weights.")
    alpha: float = Field(16.0, gt=0, description="The adapters' output is scaled by alpha / rank.")


class Hyperparams(Section):
    """Everything that decides the weights, together with the data. The defaults are the preset's, tiny, on a CPU."""

    batch_size: int = Field(
        64,
        ge=1,
        le=1024,
        description="Rows of one micro-batch, where they fit max_batch_tokens. 64 short rows keep two cores busy.",
    )
    gradient_accumulation: int = Field(
        1,
        ge=1,
        le=128,
        description="Micro-batches of one optimizer step; 1, as the preset's fit any memory.",
    )
    learning_rate: float = Field(
        2e-3,
        ge=1e-6,
        le=1e-2,
        description="Peak a step; constant between warm-up and decay. High, as small models learn from scratch.",
    )
    warmup_steps: int = Field(
        50,
        ge=0,
        description="Optimizer steps of linear warm-up of a new optimizer state: about 1 / (1 - beta2), by when its "
        "second moment is one.",
    )
    decay_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="The last share of a run, over which the rate falls to a tenth of the peak, so that every "
        "checkpoint is scored at its best.",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm, the field's usual one.")
    num_epochs: int = Field(
        1, ge=1, le=100, description="Times that every accepted row is seen; 1, since new rows come in all the time."
    )
    max_length: int = Field(
        512,
        ge=32,
        le=32768,
        description="Tokens of a row; longer rows are cut. The preset's have under 100.",
    )
    max_batch_tokens: int = Field(
        16384,
        ge=128,
        description="Tokens of one micro-batch, padding included: bounds memory, as long rows make smaller batches. "
        "The length of a pack on a GPU.",
    )
    max_rows_per_run: int = Field(
        50_000,
        ge=1,
        description="Rows that one training run takes; at least one dataset is always taken. Bounds how long a better "
        "model is waited for.",
    )
    save_steps: int = Field(
        100,
        ge=1,
        description="Optimizer steps between resume points: what a crash can cost at most, seconds of the preset.",
    )
    fp_precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="What is computed in. auto: bf16 on CUDA, fp32 on CPU. Weights and optimizer states are of "
        "weights_precision.",
    )
    layout: Literal["auto", "packed", "padded"] = Field(
        "auto",
        description="Rows end to end in one pack, or beside each other with padding. auto: packed on CUDA, padded on "
        "CPU, each the faster one. padded for models that mix tokens outside their attention.",
    )
    use_gradient_checkpointing: bool = Field(
        False, description="Activations are computed again in the backward pass: less memory, a third more compute."
    )
    compile: bool = Field(False, description="torch.compile the model: minutes at the start, faster steps on a GPU.")
    optimizer: Optimizer = Optimizer()
    lora: Lora = Lora()
    weights_precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="bf16 halves weights and gradients, for models that fp32 does not fit; updates are rounded "
        "stochastically, so that small ones count on average. Not with muon, nor adamw with a beta2 over 0.996.",
    )
    replay_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Rows of earlier datasets, as a share of the run's own, against forgetting (arXiv 2308.08747).",
    )
    max_loss_rise: float = Field(
        4.0, gt=1, description="A step's loss over this many times the median of the last ones is a spike: roll back."
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Of the preset's weights and of the row order.")

    @model_validator(mode="after")
    def _fields_agree(self) -> "Hyperparams":
        if self.max_length > self.max_batch_tokens:
            raise ValueError(
                f"hyperparams.max_length is {self.max_length}, over hyperparams.max_batch_tokens, "
                f"{self.max_batch_tokens}: a row of full length would fit no batch"
            )
        if self.lora.rank and self.optimizer.type == "muon":
            raise ValueError(
                f"hyperparams.lora.rank is {self.lora.rank}, but hyperparams.optimizer.type is muon, which is for "
                "whole matrices: set rank to 0 or the optimizer to adamw"
            )
        if self.weights_precision == "bf16" and self.fp_precision == "fp32":
            raise ValueError(
                "hyperparams.weights_precision is bf16, but hyperparams.fp_precision is fp32: weights of fewer bits "
                "are not computed with in more; set both to one, or fp_precision to auto"
            )
        if self.weights_precision == "bf16" and (problem := self.optimizer.bf16_problem) is not None:
            raise ValueError(problem)
        return self


class Distributed(Section):
    """Several processes for one training run, a GPU each, which the run starts by `accelerate launch`."""

    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes on the trainer; 1 trains in the run's own. They share each optimizer step's rows, so "
        "that what is learnt stays the same.",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="none: a whole model each (DDP), the faster one where it fits; full: weights, gradients and states "
        "are cut up among the processes (FSDP 2), for models that one GPU does not hold.",
    )

    @model_validator(mode="after")
    def _sharding_has_processes(self) -> "Distributed":
        if self.sharding == "full" and self.processes == 1:
            raise ValueError(
                "distributed.sharding is full, but distributed.processes is 1: there is nobody to share with; raise "
                "the latter or set sharding to none"
            )
        return self


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
