"""What a resume point holds beside weights and optimizer: where training is in its plan."""

from dataclasses import dataclass, field
from typing import Any

from gpu_assets.errors import ArtifactInvalid


@dataclass
class Progress:
    """What a resume point holds beside weights and optimizer.

    `step` counts optimizer steps of this run; `fresh_optimizer` is whether it began without its parent's state.
    """

    num_sequences: int
    fresh_optimizer: bool = True
    step: int = 0
    seen: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.seen = self.seen or [0] * self.num_sequences

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seen": self.seen,
            "losses": self.losses,
            "seconds": self.seconds,
            "fresh_optimizer": self.fresh_optimizer,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["seen"]) != self.num_sequences:
            raise ArtifactInvalid(
                f"the resume point counts {len(state['seen'])} sequences, the plan has {self.num_sequences}"
            )
        self.step, self.seen, self.losses = state["step"], state["seen"], state["losses"]
        self.seconds, self.fresh_optimizer = state["seconds"], state["fresh_optimizer"]
