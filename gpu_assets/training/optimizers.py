"""The optimizer of a run, new or continued. Torch code: import inside the function that needs it."""

from collections.abc import Iterable

import torch

from gpu_assets.settings import Hyperparams


def build_optimizer(parameters: Iterable[torch.nn.Parameter], hyperparams: Hyperparams) -> torch.optim.Optimizer:
    """A new optimizer of the configured type."""
    adamw = hyperparams.optimizer.adamw
    return torch.optim.AdamW(
        parameters,
        lr=hyperparams.learning_rate,
        betas=(adamw.beta1, adamw.beta2),
        eps=adamw.eps,
        weight_decay=adamw.weight_decay,
        fused=True,
    )


def set_hyperparams(optimizer: torch.optim.Optimizer, hyperparams: Hyperparams) -> None:
    """The configured values over those that came with a loaded state, as the parent's run had them."""
    adamw = hyperparams.optimizer.adamw
    for group in optimizer.param_groups:
        group["betas"], group["eps"] = (adamw.beta1, adamw.beta2), adamw.eps
        group["weight_decay"] = adamw.weight_decay
