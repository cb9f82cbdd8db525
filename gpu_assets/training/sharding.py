"""Weights, gradients and optimizer states cut up among processes: torch's FSDP 2. Torch code: import lazily.

Each decoder layer is gathered when it is computed and let go afterwards; embeddings, norm and head are gathered
together for the whole of a micro-batch. Each function is a collective.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from gpu_assets.training.loss import SupervisedLoss
from gpu_assets.training.records import Numerics


def shard(loss: SupervisedLoss, numerics: Numerics) -> None:
    """Cut up a module's parameters, in place, over all processes.

    In bf16 they are gathered in bf16 and their gradients summed in fp32, in the place of autocast, which would keep
    copies of all that was gathered.
    """
    mesh = init_device_mesh(numerics.device, (numerics.processes,))
    policy = MixedPrecisionPolicy()
    if numerics.precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    layers = set(loss.model._no_split_modules or ())
    for module in list(loss.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(loss, mesh=mesh, mp_policy=policy)
    for method in (SupervisedLoss.own_pass, SupervisedLoss.hidden):
        register_fsdp_forward_method(loss, method.__name__)


def is_sharded(module: nn.Module) -> bool:
    return isinstance(module, FSDPModule)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, in this process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor; no collective."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_weights(module: nn.Module, *, keep: bool) -> dict[str, torch.Tensor]:
    """A module's whole weights on the CPU, tensor by tensor; empty where they are not to be kept."""
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict().items():
        gathered = whole(tensor)
        if keep:
            weights[name] = gathered.cpu()
    return weights


def whole_state(optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
    """An optimizer's state as one process alone would have it, on the CPU; without states where not to be kept."""
    state = optimizer.state_dict()
    gathered: dict[Any, Any] = {}
    for index, values in state["state"].items():
        tensors = {name: whole(value) if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        if keep:
            gathered[index] = {
                name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in tensors.items()
            }
    return {**state, "state": gathered}


def cut_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole optimizer's state cut up as the parameters are that it is for; every process has the whole one."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        index: {name: _cut_as(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": cut}


def save_shards(loss: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write each process's part of weights and states."""
    model_state, optimizer_state = get_state_dict(loss, optimizer)
    save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)


def load_shards(loss: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Bring weights and states back; by as many processes as wrote them."""
    model_state, optimizer_state = get_state_dict(loss, optimizer)
    load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
    set_state_dict(loss, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)


def _cut_as(value: Any, parameter: torch.Tensor) -> Any:
    if not isinstance(parameter, DTensor) or not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
