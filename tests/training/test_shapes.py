from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gpu_assets.base_model.tiny import write_tiny_model
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.training.shapes import KNOWN, ModelShape


def known(name: str) -> ModelShape:
    return ModelShape.of_config(KNOWN[name], name)


def test_the_parameters_of_a_real_model_are_counted_exactly(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    shape = ModelShape.read(tmp_path)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape == known("tiny")


@pytest.mark.parametrize(("name", "millions"), [("qwen3-0.6b", 596), ("qwen3-4b", 4022)])
def test_known_shapes_have_the_published_sizes(name: str, millions: int) -> None:
    assert round(known(name).parameters / 1e6) == millions


def test_the_work_is_what_the_matrix_products_of_forward_and_backward_do(tmp_path: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    write_tiny_model(tmp_path, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    shape, length = ModelShape.read(tmp_path), 64
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False).logits
        logits.sum().backward()
    attention = 12 * shape.layers * shape.attention_width * length**2  # eager attention does not halve it
    causal = 6 * shape.layers * shape.attention_width * length * (length + 1)
    wanted = shape.training_flops([length], supervised=length) - causal + attention
    assert counter.get_total_flops() == pytest.approx(wanted, rel=0.02)


def test_attention_does_not_cross_documents() -> None:
    shape = known("qwen3-0.6b")
    assert shape.training_flops([1024, 1024], 2048) < shape.training_flops([2048], 2048)


def test_a_config_of_another_family_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_embd": 768}')
    with pytest.raises(ArtifactInvalid, match=r"config.json has no usable 'hidden_size'"):
        ModelShape.read(tmp_path)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactInvalid, match="cannot be read"):
        ModelShape.read(tmp_path)
