"""The model that is trained: the same loss whatever the switches."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma2Config, Gemma2ForCausalLM

from gpu_assets.errors import ModelUnsupported
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Hyperparams, Lora
from gpu_assets.training.attention import SDPA
from gpu_assets.training.batches import Layout
from gpu_assets.training.loss import SupervisedLoss, collate
from gpu_assets.training.model import PRECISIONS, load_model, save_model


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_are_merged_in_full_precision_and_rounded_once(
    precision: str, tiny_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    hyperparams = Hyperparams().model_copy(update={"lora": Lora(rank=8), "weights_precision": precision})
    model = load_model(tiny_folder, hyperparams)
    wanted = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            adapter = layer.lora_B["default"].weight
            torch.nn.init.normal_(adapter, std=0.02)
            update = layer.scaling["default"] * (adapter.float() @ layer.lora_A["default"].weight.float())
            base = layer.get_base_layer().weight.detach()
            wanted[f"{name}.weight"] = (base.float() + update.detach()).to(base.dtype)
    save_model(model, tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert len(wanted) > 7
    for name, weight in wanted.items():
        assert found[name].dtype == weight.dtype
        torch.testing.assert_close(found[name], weight, atol=1e-7 if precision == "fp32" else 0, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_merged_weights_are_stored_in_the_precision_of_a_full_fine_tune(
    precision: str, tiny_folder: Path, tmp_path: Path
) -> None:
    found = []
    for rank in (0, 4):
        folder = tmp_path / str(rank)
        hyperparams = Hyperparams().model_copy(update={"lora": Lora(rank=rank), "weights_precision": precision})
        save_model(load_model(tiny_folder, hyperparams), folder)
        types = {name: weight.dtype for name, weight in load_file(folder / "model.safetensors").items()}
        found.append((types, json.loads((folder / "config.json").read_text())["dtype"]))
    assert found[0] == found[1]
    assert set(found[1][0].values()) == {PRECISIONS[precision]}


def test_a_model_that_transformers_does_not_run_with_this_attention_is_refused_by_name(tmp_path: Path) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    Gemma2ForCausalLM(Gemma2Config(**sizes, **heads)).save_pretrained(tmp_path)
    with pytest.raises(ModelUnsupported, match=f"model in {tmp_path} cannot be trained with sdpa attention: Gemma2"):
        load_model(tmp_path, Hyperparams(), SDPA)
