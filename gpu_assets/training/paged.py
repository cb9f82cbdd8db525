"""What bitsandbytes' optimizers do not do by themselves: states that stay paged, and bf16 updates that are not lost.

Torch code: import inside the function that needs it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

PAGED_STATES = ("state1", "state2")
SCALES = ("absmax1", "absmax2")
BLOCK = 256
"""Elements of an 8-bit state that share a scale."""
UPDATED_AT_ONCE = 2**22
"""Elements of bf16 weights whose update is computed in fp32 at a time: about 100 MB; a multiple of `BLOCK`."""
DISCARDED = 16
"""Bits by which fp32 is longer than bf16."""


class PagedStates(torch.optim.Optimizer):
    """Put before an optimizer of bitsandbytes among a class's bases.

    Loaded states go into the buffers that `get_state_buffer` gives, which are paged where the optimizer is; without it
    they would become tensors on the device, all at once. Weights in bf16 are updated in fp32 and rounded
    stochastically, with torch's own random state; rounded to the nearest, most small updates would change nothing.
    """

    def state_dict(self) -> dict[str, Any]:
        """The state as plain tensors, by name: the mark of being paged is of this process's memory only."""
        state = super().state_dict()
        plain = {
            index: {name: value.detach() if name in PAGED_STATES else value for name, value in _flat(values).items()}
            for index, values in state["state"].items()
        }
        return {**state, "state": plain}

    def load_state_dict(self, state_dict: Mapping[str, Any], **options: Any) -> None:
        saved = {index: _flat(values) for index, values in state_dict["state"].items()}
        held = {parameter: dict(values) for parameter, values in self.state.items()}
        rest = {
            index: {name: value for name, value in values.items() if name not in PAGED_STATES}
            for index, values in saved.items()
        }
        super().load_state_dict({**state_dict, "state": rest}, **options)
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        indices = (index for group in state_dict["param_groups"] for index in group["params"])
        for index, parameter in zip(indices, parameters, strict=True):
            for name in PAGED_STATES:
                if name in saved.get(index, {}):
                    buffer = held.get(parameter, {}).get(name)
                    self.state[parameter][name] = self._filled(buffer, parameter, saved[index][name])

    @torch.no_grad()
    def update_step(self, group: dict[str, Any], p: torch.Tensor, gindex: int, pindex: int) -> None:
        """One parameter's update; its name and those of its arguments are the library's."""
        if p.dtype != torch.bfloat16:
            super().update_step(group, p, gindex, pindex)  # type: ignore[misc]
            return
        assert p.grad is not None
        weights, gradient, state = p.data.contiguous().view(-1), p.grad.contiguous().view(-1), self.state[p]
        for start in range(0, weights.numel(), UPDATED_AT_ONCE):
            part = slice(start, start + UPDATED_AT_ONCE)
            exact = weights[part].float()
            exact.grad = gradient[part].float()
            self.state[exact] = dict(_cut(state, part))
            super().update_step(group, exact, gindex, pindex)  # type: ignore[misc]
            done = self.state.pop(exact)["step"]
            weights[part] = rounded_stochastically(exact.data)
        state["step"] = done
        p.data = weights.view(p.shape)

    def _filled(self, buffer: torch.Tensor | None, parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The buffer that the optimizer has, or a new one where it does not fit, with a loaded value."""
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = self.get_state_buffer(parameter, dtype=value.dtype)  # type: ignore[attr-defined]
        filled: torch.Tensor = buffer.copy_(value)
        return filled


def rounded_stochastically(values: torch.Tensor) -> torch.Tensor:
    """fp32 values in bf16, each one of the two nearest, so that the mean is the value; what is not finite stays so."""
    bits = values.view(torch.int32)
    noise = torch.randint_like(bits, 1 << DISCARDED)
    rounded = ((bits + noise) >> DISCARDED << DISCARDED).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's state by name; the library puts what is quantized one level deeper, out of FSDP's sight."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    return flat


def _cut(state: Mapping[str, Any], part: slice) -> Iterator[tuple[str, Any]]:
    """The state of a part of a parameter, which begins at a block; what is written to it is written to the whole."""
    for name, value in state.items():
        if name in PAGED_STATES:
            cut = value.view(-1)[part]
            for mark in ("is_paged", "page_deviceid"):
                if hasattr(value, mark):
                    setattr(cut, mark, getattr(value, mark))
            yield name, cut
        elif name in SCALES:
            yield name, value[part.start // BLOCK : -(-part.stop // BLOCK)]
        else:
            yield name, value
