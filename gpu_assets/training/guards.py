"""When training has gone wrong, and what it goes on with: decisions only, nothing is read or written.

A loss or gradient that is not finite, weights that are not, or a loss spike takes training back to its last
scheduled resume point, once, with half the learning rate; the second time the run ends. All of it follows from
the losses, so a run that is killed anywhere comes to the same decisions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

Cause = Literal["loss", "gradient", "weights", "spike"]

MAX_ROLLBACKS = 1
RATE_CUT = 0.5
WINDOW = 50
"""Steps whose losses say what is usual."""
SETTLED = 20
"""Steps before a loss is judged: as many micro-batches as are grouped by length together hold a row of each kind."""
MIN_RISE_NATS = 1.0
"""Where losses are nearly nought, a multiple of them is still no spike."""
NOISE = 1.5
"""A loss up to this many times the largest of the window is a hard batch that comes again."""


@dataclass(frozen=True)
class Divergence:
    """What went wrong in which step of the run, counted from 1; `value` is the loss or norm, in words for weights."""

    step: int
    cause: Cause
    value: float
    usual: float | None = None

    def __str__(self) -> str:
        if self.cause == "weights":
            return f"weights are not finite after step {self.step}"
        if self.cause == "gradient":
            return f"the norm of the gradient is {self.value} at step {self.step}"
        usual = "" if self.usual is None else f", {self.value / self.usual:.1f} times the usual {self.usual:.4g},"
        return f"the loss is {self.value:.4g}{usual} at step {self.step}"


@dataclass(frozen=True)
class Rollback:
    """That training went back from `step` to `to_step`, and the factor of the learning rate from there on."""

    step: int
    to_step: int
    cause: Cause
    value: float | None
    rate_factor: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(step: int, loss: float, gradient_norm: float, losses: Sequence[float], max_rise: float) -> Divergence | None:
    """What is wrong with a step, or None.

    Args:
        step: from 1.
        losses: of the run's steps before it.
        max_rise: a loss over this many times the median of the last `WINDOW` is a spike.
    """
    if not math.isfinite(loss):
        return Divergence(step, "loss", loss)
    if not math.isfinite(gradient_norm):
        return Divergence(step, "gradient", gradient_norm)
    window = losses[-WINDOW:]
    if len(window) < SETTLED:
        return None
    usual = median(window)
    if loss > max(max_rise * usual, usual + MIN_RISE_NATS, NOISE * max(window)):
        return Divergence(step, "spike", loss, usual)
    return None


def roll_back(divergence: Divergence, to_step: int, before: Sequence[Mapping[str, Any]]) -> Rollback:
    """How training goes on from a step; `before` are its earlier rollbacks."""
    value = divergence.value if math.isfinite(divergence.value) else None
    return Rollback(divergence.step, to_step, divergence.cause, value, rate_factor(before) * RATE_CUT)


def rate_factor(rollbacks: Sequence[Mapping[str, Any]]) -> float:
    """What the learning rate is multiplied with after these."""
    return float(rollbacks[-1]["rate_factor"]) if rollbacks else 1.0
