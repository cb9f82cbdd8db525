"""The optimizer of a run, new or continued. Torch code: import inside the function that needs it.

bitsandbytes and torchao are imported where they are asked for: both are in the extra `gpu`.
"""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from gpu_assets.errors import SettingsError
from gpu_assets.settings import Hyperparams
from gpu_assets.training.paged import PagedStates

RATE_RATIO = "rate_ratio"
"""Of a parameter group: its learning rate over the run's, at every step."""


class Combined(torch.optim.Optimizer):
    """Several optimizers, of different parameters, as one: their groups and states are its own."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        first = 0
        for part in self._parts:
            part.state = self.state
            part.param_groups = self.param_groups[first : first + len(part.param_groups)]
            first += len(part.param_groups)


def build_optimizer(loss: nn.Module, hyperparams: Hyperparams) -> torch.optim.Optimizer:
    """A new optimizer of the configured type, for what of the model is trained.

    Raises:
        SettingsError: if the type needs a library that is not installed, or a GPU that is not there.
    """
    trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    chosen = hyperparams.optimizer
    if chosen.type == "muon":
        return _muon(loss, hyperparams)
    if chosen.type == "adamw":
        return _adamw(trained, hyperparams)
    return _quantized_or_paged(trained, hyperparams)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The run's learning rate, in each group times the group's ratio; torchao keeps it in a tensor."""
    for group in optimizer.param_groups:
        own = rate * group.get(RATE_RATIO, 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def require_libraries(hyperparams: Hyperparams) -> None:
    """Import what the states of the configured optimizer are made of.

    Raises:
        SettingsError: if it is not installed.
    """
    if _is_torchaos(hyperparams):
        _library("torchao.optim", hyperparams)


def _adamw_arguments(hyperparams: Hyperparams) -> dict[str, Any]:
    adamw = hyperparams.optimizer.adamw
    return {
        "lr": hyperparams.learning_rate,
        "betas": (adamw.beta1, adamw.beta2),
        "eps": adamw.eps,
        "weight_decay": adamw.weight_decay,
    }


def _adamw(parameters: Sequence[nn.Parameter], hyperparams: Hyperparams) -> torch.optim.Optimizer:
    """torch's fused AdamW; for bf16 weights torchao's, which rounds their updates stochastically."""
    if _is_torchaos(hyperparams):
        made: torch.optim.Optimizer = _library("torchao.optim", hyperparams)._AdamW(
            parameters, **_adamw_arguments(hyperparams), bf16_stochastic_round=True
        )
        return made
    return torch.optim.AdamW(parameters, **_adamw_arguments(hyperparams), fused=True)


def _muon(loss: nn.Module, hyperparams: Hyperparams) -> Combined:
    """Muon for the matrices between embedding and head, AdamW for those two and for what is no matrix."""
    muon = hyperparams.optimizer.muon
    embeddings = {id(module.weight) for module in loss.modules() if isinstance(module, nn.Embedding)}
    head = loss.model.get_output_embeddings()  # type: ignore[operator, union-attr]
    outer = embeddings if head is None else embeddings | {id(head.weight)}
    trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    hidden = [parameter for parameter in trained if parameter.ndim == 2 and id(parameter) not in outer]
    rest = [parameter for parameter in trained if parameter.ndim != 2 or id(parameter) in outer]
    matrices = torch.optim.Muon(
        [{"params": hidden, RATE_RATIO: muon.learning_rate / hyperparams.learning_rate}],
        lr=muon.learning_rate,
        momentum=muon.momentum,
        weight_decay=muon.weight_decay,
        nesterov=True,
    )
    if not rest:
        return Combined([matrices])
    return Combined([matrices, torch.optim.AdamW(rest, **_adamw_arguments(hyperparams), fused=True)])


def _quantized_or_paged(parameters: Sequence[nn.Parameter], hyperparams: Hyperparams) -> torch.optim.Optimizer:
    """bitsandbytes'; for bf16 weights whose states are not paged torchao's. Both round bf16 stochastically."""
    name = hyperparams.optimizer.type
    if not torch.cuda.is_available():
        raise SettingsError(
            f"hyperparams.optimizer.type is {name}, which needs a CUDA device, and torch finds none: take adamw or muon"
        )
    arguments = _adamw_arguments(hyperparams)
    if _is_torchaos(hyperparams):
        library = _library("torchao.optim", hyperparams)
        made: torch.optim.Optimizer = library.AdamW8bit(parameters, **arguments, bf16_stochastic_round=True)
        return made
    made = paged(_library("bitsandbytes.optim", hyperparams).AdamW)(
        parameters,
        **arguments,
        optim_bits=8 if name.endswith("8bit") else 32,
        is_paged=name.startswith("paged"),
    )
    return made


def paged(adamw: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """A class of bitsandbytes whose states stay paged and whose bf16 updates are not lost."""
    return type("AdamW", (PagedStates, adamw), {})


def _is_torchaos(hyperparams: Hyperparams) -> bool:
    return hyperparams.weights_precision == "bf16" and hyperparams.optimizer.type in ("adamw", "adamw_8bit")


def _library(name: str, hyperparams: Hyperparams) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError(
            f"hyperparams.optimizer.type {hyperparams.optimizer.type} with weights_precision "
            f"{hyperparams.weights_precision} needs {name.partition('.')[0]}, which cannot be imported ({error}): "
            "install the extra `gpu`, or take adamw with weights_precision fp32"
        ) from error
