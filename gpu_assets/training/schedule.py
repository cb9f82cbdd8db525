"""The learning rate as a pure function of the step, so that resuming needs no scheduler state."""

from gpu_assets.settings import Hyperparams

LOWEST = 0.1
"""Of the peak: where a run ends."""


def learning_rate(step: int, steps: int, hyperparams: Hyperparams, *, optimizer_steps: int) -> float:
    """Warm-up of the optimizer's state, constant, and a linear fall over the last share of the run to a tenth.

    Each run ends in its own fall, so every checkpoint is scored at its best; the next run starts at the peak again,
    or goes on with what is left of the warm-up. Where the two meet, the lower holds. The shape is warm-up, stable,
    decay (Hu et al. 2024, arXiv 2404.06395).

    Args:
        step: optimizer steps already done in this run, from 0.
        steps: optimizer steps of this run.
        optimizer_steps: those that the optimizer's state had been through before this run; 0 if it is new.
    """
    peak, warmup, done = hyperparams.learning_rate, hyperparams.warmup_steps, optimizer_steps + step
    ramp = peak * (done + 1) / warmup if done < warmup else peak
    falling, left = round(steps * hyperparams.decay_share), steps - step
    fall = peak * max(LOWEST, left / falling) if falling and left <= falling else peak
    return min(ramp, fall)
