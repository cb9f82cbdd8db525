"""What a resume point holds beside weights and optimizer: where training is in its plan."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gpu_assets.errors import ArtifactInvalid


@dataclass
class Progress:
    """What a resume point holds beside weights and optimizer.

    `step` counts optimizer steps of this run, each with its loss, gradient norm and learning rate; `optimizer_steps`
    are those that the optimizer's state had been through before, 0 if it is new. `rollbacks` are those of
    `guards.Rollback`, and `micro_batch_splits` is how often micro-batches were halved.
    """

    num_sequences: int
    optimizer_steps: int = 0
    step: int = 0
    seen: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seconds: float = 0.0
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    micro_batch_splits: int = 0

    def __post_init__(self) -> None:
        self.seen = self.seen or [0] * self.num_sequences

    def note(self, loss: float, gradient_norm: float, rate: float) -> None:
        """Count a step that is done."""
        self.losses.append(loss)
        self.gradient_norms.append(gradient_norm)
        self.rates.append(rate)
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["seen"]) != self.num_sequences:
            raise ArtifactInvalid(
                f"the resume point counts {len(state['seen'])} sequences, the plan has {self.num_sequences}"
            )
        for entry in fields(self):
            setattr(self, entry.name, state[entry.name])
