"""The learning rate as a pure function of the step, so that resuming needs no scheduler state."""

from gpu_assets.settings import Hyperparams


def learning_rate(step: int, steps: int, hyperparams: Hyperparams, *, fresh_optimizer: bool) -> float:
    """Warm-up, constant, and a linear fall over the last share of the run to a tenth of the peak.

    Each run ends in its own fall, so every checkpoint is scored at its best; the next run starts at
    the peak again. The shape is warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395).

    Args:
        step: optimizer steps already done in this run, from 0.
        steps: optimizer steps of this run.
        fresh_optimizer: the warm-up is for a new optimizer state; a continued one needs none.
    """
    peak = hyperparams.learning_rate
    if fresh_optimizer and step < hyperparams.warmup_steps:
        return peak * (step + 1) / hyperparams.warmup_steps
    falling = round(steps * hyperparams.decay_share)
    left = steps - step
    if falling and left <= falling:
        return peak * max(0.1, left / falling)
    return peak
