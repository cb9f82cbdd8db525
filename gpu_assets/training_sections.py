"""The sections of config.json that decide how a model is trained.

Common ground: imports nothing else of the project but `sections`. docs/configuration.md is made from it.
"""

from typing import Literal

from pydantic import Field, model_validator

from gpu_assets.sections import Section

MAX_BF16_BETA2 = 0.996
"""A number of bf16 times more than 1 - 2 ** -8 can be rounded back to itself."""


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
