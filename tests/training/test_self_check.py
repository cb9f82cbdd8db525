"""The self-check: a model that computes what training would leave out is refused by name, before the first step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from gpu_assets.errors import ModelUnsupported
from gpu_assets.rendering import Sample
from gpu_assets.training import loop
from gpu_assets.training.attention import FLEX
from gpu_assets.training.batches import Layout
from gpu_assets.training.loss import SupervisedLoss
from gpu_assets.training.records import Numerics, TrainingPlan
from gpu_assets.training.self_check import check_model
from gpu_assets.training.step import Run
from tests.training.conftest import PlanFactory
from tests.training.test_loop import quiet

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own, of kernels that are not installed

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Sequences:
    """As much of `Samples` as is looked at."""

    sequences: list[Sample]


def make_run(model: PreTrainedModel, layout: Layout) -> Run:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 100, (40,), generator=generator).tolist()
    samples: Any = Sequences([Sample(tuple(ids), (False,) + (True,) * 39)])
    nothing: Any = None
    return Run(Accelerator(cpu=True), SupervisedLoss(model).train(), nothing, nothing, samples, [], layout, pad_id=0)


@pytest.fixture
def check(make_plan: PlanFactory) -> Callable[..., None]:
    """The check of a model with random weights."""
    plan = make_plan(rows=1)

    def run(model: PreTrainedModel, layout: Layout, **hyperparams: object) -> None:
        changed = replace(plan, hyperparams=plan.hyperparams.model_copy(update=hyperparams))
        check_model(make_run(model, layout), changed)

    return run


def seeded(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    return make()


def qwen3(**changes: object) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, **changes))


def gemma2(**changes: object) -> Gemma2ForCausalLM:
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=16, **changes))


def lfm2() -> Lfm2ForCausalLM:
    return Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]))


def qwen3_next() -> Qwen3NextForCausalLM:
    linear = {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    linear |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
    layers = ["linear_attention", "full_attention"]
    return Qwen3NextForCausalLM(
        Qwen3NextConfig(
            **SIZES, **linear, **experts, head_dim=16, layer_types=layers, shared_expert_intermediate_size=32
        )
    )


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(
    "make",
    [
        qwen3,
        lambda: qwen3(sliding_window=8, use_sliding_window=True, max_window_layers=0),
        lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.5)),
        lambda: GraniteForCausalLM(GraniteConfig(**SIZES, embedding_multiplier=12.0, residual_multiplier=0.2)),
    ],
    ids=["qwen3", "qwen3 with a window", "llama with dropout", "granite without a scaled head"],
)
def test_a_model_with_a_plain_head_and_attention_alone_passes(
    make: Callable[[], PreTrainedModel], layout: Layout, check: Callable[..., None]
) -> None:
    check(seeded(make), layout)
    check(seeded(make).bfloat16(), layout, weights_precision="bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: gemma2(attn_logit_softcapping=None),
        lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
        lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.0625)),
    ],
    ids=["gemma2", "granite", "cohere"],
)
def test_a_head_that_scales_or_caps_is_refused_by_name(
    make: Callable[[], PreTrainedModel], precision: str, check: Callable[..., None]
) -> None:
    """Though with these small random weights the losses hardly differ."""
    model = seeded(make)
    if precision == "bf16":
        model = model.bfloat16()
    with pytest.raises(ModelUnsupported, match=rf"the head of {type(model).__name__} is not a plain projection: .*own"):
        check(model, "padded", weights_precision=precision)


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Llama4ForCausalLM(
            Llama4TextConfig(**SIZES, head_dim=16, intermediate_size_mlp=64, num_local_experts=2)
        ),
        lambda: OPTForCausalLM(OPTConfig(vocab_size=100, hidden_size=64, num_hidden_layers=1, num_attention_heads=4)),
    ],
    ids=["llama4, whose decoder is not its base model", "opt, which runs less than its base model"],
)
def test_a_model_that_does_not_run_as_a_decoder_and_a_head_is_refused_by_name(
    make: Callable[[], PreTrainedModel], layout: Layout, check: Callable[..., None]
) -> None:
    model = seeded(make)
    with pytest.raises(
        ModelUnsupported, match=f"{type(model).__name__} cannot be trained: .* such as Qwen3ForCausalLM"
    ):
        check(model, layout)


def test_another_loss_than_cross_entropy_is_refused(check: Callable[..., None]) -> None:
    model = seeded(qwen3)
    plain = model.loss_function
    model.loss_function = lambda *args, **kwargs: 1.01 * plain(*args, **kwargs)
    with pytest.raises(ModelUnsupported, match="Qwen3ForCausalLM has another loss"):
        check(model, "padded")


def test_an_attention_that_transformers_refuses_is_refused_by_name(check: Callable[..., None]) -> None:
    model = seeded(gemma2)
    model.config._attn_implementation = "sdpa"
    with pytest.raises(ModelUnsupported, match="Gemma2ForCausalLM cannot be trained with sdpa attention: .*softcap"):
        check(model, "padded")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [lfm2, qwen3_next])
def test_models_that_mix_documents_are_refused_in_packs_only(
    make: Callable[[], PreTrainedModel], precision: str, check: Callable[..., None]
) -> None:
    model = seeded(make)
    if precision == "bf16":
        model = model.bfloat16()
    check(model, "padded", weights_precision=precision)
    with pytest.raises(ModelUnsupported, match=rf"{type(model).__name__} lets a document see.*layout to padded"):
        check(model, "packed", weights_precision=precision)


def test_an_attention_that_does_not_know_the_documents_is_refused(
    check: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SupervisedLoss, "_documents", lambda *_: {})
    model = seeded(qwen3)
    monkeypatch.setattr(type(model.base_model), "forward", _without_positions(type(model.base_model).forward))
    with pytest.raises(ModelUnsupported, match="lets a document see the one before it"):
        check(model, "packed")


def _without_positions(forward: Callable[..., Any]) -> Callable[..., Any]:
    def changed(self: object, *args: object, position_ids: object = None, **kwargs: object) -> Any:
        return forward(self, *args, **kwargs)

    return changed


def test_the_check_leaves_the_random_state_and_the_training_mode(check: Callable[..., None]) -> None:
    model = seeded(lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.5)))
    before = torch.get_rng_state()
    check(model, "packed")
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and model.model.layers[0].self_attn.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weights_that_are_no_numbers_are_left_to_the_guards(check: Callable[..., None]) -> None:
    model = seeded(qwen3)
    torch.nn.init.constant_(model.model.norm.weight, torch.nan)
    check(model, "padded")


def test_flex_attention_passes_on_a_model_with_windows(check: Callable[..., None]) -> None:
    model = seeded(lambda: qwen3(sliding_window=8, use_sliding_window=True, max_window_layers=1))
    model.set_attn_implementation(FLEX)
    check(model, "packed")


def test_training_does_not_begin_where_the_check_refuses(
    make_plan: PlanFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: TrainingPlan = make_plan(rows=8)
    packed = replace(plan, numerics=Numerics("cpu", "fp32", "packed"))
    monkeypatch.setattr(loop, "load_model", lambda *_: seeded(lambda: _with_vocabulary(512)))
    with pytest.raises(ModelUnsupported, match="Lfm2ForCausalLM lets a document see"):
        loop.train(packed, tmp_path, None, quiet)
    assert not (tmp_path / "model").exists()


def _with_vocabulary(size: int) -> Lfm2ForCausalLM:
    return Lfm2ForCausalLM(Lfm2Config(**{**SIZES, "vocab_size": size}, layer_types=["conv", "full_attention"]))
