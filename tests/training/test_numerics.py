"""What is trained with here: the layout follows from the device, unless it is set."""

from types import SimpleNamespace

import pytest
import torch

from gpu_assets.settings import Hyperparams
from gpu_assets.training import numerics
from gpu_assets.training.attention import SDPA, attention_for
from gpu_assets.training.numerics import numerics_here


@pytest.mark.parametrize(
    ("device", "layout", "wanted"),
    [
        ("cpu", "auto", "padded"),
        ("cpu", "packed", "packed"),
        ("cuda", "auto", "packed"),
        ("cuda", "padded", "padded"),
    ],
)
def test_the_layout_suits_the_device_unless_it_is_set(
    device: str, layout: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(numerics, "PartialState", lambda: SimpleNamespace(device=torch.device(device)))
    here = numerics_here(Hyperparams.model_validate({"layout": layout}))
    assert (here.device, here.layout) == (device, wanted)


def test_padded_rows_on_a_gpu_take_the_attention_of_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(numerics, "PartialState", lambda: SimpleNamespace(device=torch.device("cuda")))
    assert attention_for(numerics_here(Hyperparams.model_validate({"layout": "padded"}))) == SDPA
