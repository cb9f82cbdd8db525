"""The model that is trained: the same loss whatever the switches."""

import shutil
from pathlib import Path

import pytest
import torch

from gpu_assets.rendering import Renderer
from gpu_assets.settings import Hyperparams
from gpu_assets.training.batches import Layout
from gpu_assets.training.loss import SupervisedLoss, collate
from gpu_assets.training.model import load_model


def loss_and_gradient(folder: Path, layout: Layout, **changes: object) -> tuple[float, torch.Tensor]:
    renderer = Renderer.load(folder, "plain")
    said = [("what is ①⓪ + ①", "⓪①①①⓪① = ①①"), ("?", "!")]
    rows = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in said]
    loss = SupervisedLoss(load_model(folder, Hyperparams().model_copy(update=changes))).train()
    value = loss(*collate([renderer.training_samples(row)[0] for row in rows], layout, pad_id=0))
    value.backward()
    gradient = loss.model.get_input_embeddings().weight.grad
    assert gradient is not None
    return value.item(), gradient


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_compiled_model_has_the_same_loss_and_gradient(layout: Layout, tiny_folder: Path) -> None:
    expected, found = (loss_and_gradient(tiny_folder, layout, compile=switch) for switch in (False, True))
    assert found[0] == pytest.approx(expected[0], abs=1e-4)
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_changes_no_loss_and_no_gradient(tiny_folder: Path) -> None:
    expected, found = (
        loss_and_gradient(tiny_folder, "packed", use_gradient_checkpointing=switch) for switch in (False, True)
    )
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])


def test_weights_in_half_precision_are_near_the_loss_in_full(tiny_folder: Path) -> None:
    expected, found = (
        loss_and_gradient(tiny_folder, "padded", weights_precision=precision) for precision in ("fp32", "bf16")
    )
    assert found[1].dtype == torch.bfloat16
    assert found[0] == pytest.approx(expected[0], rel=1e-2)
