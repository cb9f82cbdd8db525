"""States that stay paged and bf16 updates that are not lost, with a stand-in for bitsandbytes' optimizer on a CPU.

The stand-in keeps to what the library's of the allowed versions does: states made at the first step, marked where they
are paged, a step that updates one parameter after the other, a `state_dict` that has quantized states one level deeper,
and loading that takes both forms and makes ordinary tensors of all.
"""

import io
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from gpu_assets.training import paged as module
from gpu_assets.training.optimizers import paged
from gpu_assets.training.paged import BLOCK, rounded_stochastically

RATE = 1e-4
LARGE = (40, 2 * BLOCK)
WRAPPED = "__bnb_optimizer_quant_state__"
QUANTIZED = ("state1", "absmax1")


class StandIn(torch.optim.Optimizer):
    """Momentum in fp32, paged for large parameters, with a block's largest entry as the 8-bit states' scales."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": RATE})
        self.buffers = 0

    def get_state_buffer(self, parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        buffer = torch.zeros(parameter.shape, dtype=dtype)
        if parameter.numel() > BLOCK:
            buffer.is_paged = True
            self.buffers += 1
        return buffer

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        wrapped = {
            index: {
                **{name: value for name, value in values.items() if name not in QUANTIZED},
                WRAPPED: {name: values[name] for name in QUANTIZED},
            }
            for index, values in state["state"].items()
        }
        return {**state, "state": wrapped}

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, values in deepcopy(state_dict)["state"].items():
            values.update(values.pop(WRAPPED, {}))
            self.state[parameters[index]] = values

    def update_step(self, group: dict[str, Any], p: torch.Tensor, gindex: int, pindex: int) -> None:
        state = self.state[p]
        assert p.dtype == p.grad.dtype == state["state1"].dtype == torch.float32
        assert p.numel() <= BLOCK or state["state1"].is_paged
        state["step"] += 1
        state["state1"].mul_(0.9).add_(p.grad, alpha=0.1)
        blocks = state["state1"].reshape(-1, BLOCK) if p.numel() >= BLOCK else state["state1"].reshape(1, -1)
        state["absmax1"].copy_(blocks.abs().amax(dim=1))
        p.data.sub_(group["lr"] * state["state1"].sign())

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for place, parameter in enumerate(group["params"]):
                if not self.state[parameter]:
                    buffer = self.get_state_buffer(parameter, torch.float32)
                    scales = torch.zeros(-(-parameter.numel() // BLOCK))
                    self.state[parameter] = {"step": 0, "state1": buffer, "absmax1": scales}
                self.update_step(group, parameter, 0, place)


def made(dtype: torch.dtype) -> tuple[list[nn.Parameter], Any]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(LARGE).to(dtype)), nn.Parameter(torch.randn(7).to(dtype))]
    return parameters, paged(StandIn)(parameters)


def take_steps(parameters: list[nn.Parameter], optimizer: Any, count: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


def saved(optimizer: Any) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def test_a_loaded_state_is_paged_where_the_optimizer_pages_it() -> None:
    parameters, optimizer = made(torch.float32)
    take_steps(parameters, optimizer, 3)
    state = saved(optimizer)
    assert not any(hasattr(values["state1"], "is_paged") for values in state["state"].values())
    assert all(values.keys() == {"step", *QUANTIZED} for values in state["state"].values())
    others, other = made(torch.float32)
    other.load_state_dict(state)
    large, small = (other.state[parameter] for parameter in others)
    assert large["state1"].is_paged and not hasattr(small["state1"], "is_paged")
    for parameter, copy in zip(parameters, others, strict=True):
        assert other.state[copy]["step"] == 3
        for name in ("state1", "absmax1"):
            assert torch.equal(other.state[copy][name], optimizer.state[parameter][name])


def test_a_state_that_was_saved_as_the_library_nests_it_is_paged_too() -> None:
    parameters, optimizer = made(torch.float32)
    take_steps(parameters, optimizer, 2)
    nested = deepcopy(StandIn.state_dict(optimizer))
    assert nested["state"][0].keys() == {"step", WRAPPED}
    others, other = made(torch.float32)
    other.load_state_dict(nested)
    assert other.state[others[0]]["state1"].is_paged
    assert torch.equal(other.state[others[0]]["state1"], optimizer.state[parameters[0]]["state1"])


def test_a_state_that_is_loaded_again_takes_no_more_memory() -> None:
    parameters, optimizer = made(torch.float32)
    take_steps(parameters, optimizer, 1)
    state, buffer = saved(optimizer), optimizer.state[parameters[0]]["state1"]
    take_steps(parameters, optimizer, 1)
    optimizer.load_state_dict(state)
    assert optimizer.state[parameters[0]]["state1"] is buffer
    assert optimizer.buffers == 1
    assert torch.equal(buffer, state["state"][0]["state1"])


def test_small_updates_of_half_precision_weights_count_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPDATED_AT_ONCE", 3 * BLOCK)
    parameters, optimizer = made(torch.bfloat16)
    exact = [nn.Parameter(parameter.detach().float()) for parameter in parameters]
    before = exact[0].detach().clone()
    reference = paged(StandIn)(exact)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        for parameter, copy in zip(parameters, exact, strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator).bfloat16()
            copy.grad = parameter.grad.float()
        optimizer.step()
        reference.step()
    change, wanted = parameters[0].detach().float() - before, exact[0].detach() - before
    assert ((change * wanted).sum() / wanted.square().sum()).item() == pytest.approx(1, abs=0.15)
    for parameter, copy in zip(parameters, exact, strict=True):
        mine, theirs = optimizer.state[parameter], reference.state[copy]
        assert mine["step"] == theirs["step"] == 20
        assert torch.equal(mine["state1"], theirs["state1"]) and torch.equal(mine["absmax1"], theirs["absmax1"])
    assert len(optimizer.state) == 2


def test_the_same_random_state_gives_the_same_weights() -> None:
    parameters, optimizer = made(torch.bfloat16)
    take_steps(parameters, optimizer, 2)
    state, weights, random_state = saved(optimizer), deepcopy(parameters), torch.get_rng_state()
    take_steps(parameters, optimizer, 2, seed=1)
    others, other = made(torch.bfloat16)
    other.load_state_dict(state)
    for copy, weight in zip(others, weights, strict=True):
        copy.data.copy_(weight.data)
    torch.set_rng_state(random_state)
    take_steps(others, other, 2, seed=1)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(parameters, others, strict=True))


def test_rounding_gives_one_of_the_two_nearest_and_the_value_on_average() -> None:
    torch.manual_seed(0)
    values = torch.tensor([1.0, 1.001, -1.001, 3e-5, 0.0]).repeat(20_000, 1)
    rounded = rounded_stochastically(values).float()
    torch.testing.assert_close(rounded.mean(0), values[0], rtol=1e-4, atol=1e-7)
    assert (rounded[:, 0] == 1).all() and (rounded[:, 4] == 0).all()
    assert set(rounded[:, 1].tolist()) == {1.0, 1.0078125}


def test_rounding_hides_nothing_that_is_not_finite() -> None:
    nan = torch.tensor([0x7FFFFFFF, -1, 0x7FC00000], dtype=torch.int32).view(torch.float32)
    assert rounded_stochastically(nan).isnan().all()
    infinite = torch.tensor([float("inf"), -float("inf")])
    assert torch.equal(rounded_stochastically(infinite).float(), infinite)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [32, 8])
def test_a_run_that_was_stopped_goes_on_with_paged_states_on_a_gpu(
    bits: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    adamw = paged(pytest.importorskip("bitsandbytes").optim.AdamW)

    def begin(seed: int) -> tuple[Accelerator, Any, Any]:
        torch.manual_seed(seed)
        accelerator, layer = Accelerator(), nn.Linear(512, 512, dtype=dtype)
        optimizer = adamw(list(layer.parameters()), lr=RATE, optim_bits=bits, is_paged=True)
        return accelerator, *accelerator.prepare(layer, optimizer)

    def go_on(layer: Any, optimizer: Any, steps: int) -> None:
        for _ in range(steps):
            layer(torch.randn(8, 512, device="cuda", dtype=dtype)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    accelerator, layer, optimizer = begin(seed=0)
    go_on(layer, optimizer, 3)
    accelerator.save_state(str(tmp_path))
    go_on(layer, optimizer, 3)
    resumed, other, others = begin(seed=1)
    resumed.load_state(str(tmp_path), map_location="cpu")
    state = others.state[other.weight]
    assert state["state1"].is_paged and state["state2"].is_paged
    go_on(other, others, 3)
    assert torch.equal(other.weight, layer.weight)
    assert state["step"] == 6
