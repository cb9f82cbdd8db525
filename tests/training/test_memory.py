"""The memory plan against what torch's allocator really does."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen3Config, Qwen3ForCausalLM

from gpu_assets.errors import OutOfMemory
from gpu_assets.rendering import Sample
from gpu_assets.settings import Hyperparams
from gpu_assets.training import cross_entropy, memory
from gpu_assets.training.device import memory_bytes
from gpu_assets.training.loss import SupervisedLoss, collate
from gpu_assets.training.memory import GB, Setup, advise, plan_memory, refusal, require_fit
from gpu_assets.training.shapes import KNOWN, ModelShape

SMALL = KNOWN["qwen3-0.6b"] | {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
LARGE_VOCABULARY = SMALL | {"vocab_size": 151_936, "hidden_size": 64, "num_hidden_layers": 1}
ROWS, LENGTH = 4, 256
CPU_CONTEXT = memory.CONTEXT["cpu"]


def make_setup(model: str = "qwen3-0.6b", precision: memory.Precision = "bf16", **hyperparams: object) -> Setup:
    return Setup(ModelShape.of_config(KNOWN[model], model), Hyperparams.model_validate(hyperparams), precision, "cuda")


def measured_peak(config: dict[str, object], hyperparams: Hyperparams, precision: str) -> int:
    """Bytes at the peak of the second of two steps of two micro-batches, from torch's record of every allocation."""
    dtype = torch.bfloat16 if hyperparams.weights_precision == "bf16" else torch.float32
    settings = {name: value for name, value in config.items() if name != "model_type"}
    model = Qwen3ForCausalLM(Qwen3Config(**settings)).to(dtype)
    if hyperparams.use_gradient_checkpointing:
        model.activation_checkpointing_enable()
    loss = SupervisedLoss(model).train()
    optimizer = torch.optim.AdamW(loss.parameters(), fused=True)
    ids = torch.randint(0, model.config.vocab_size, (LENGTH,)).tolist()
    tensors = collate([Sample(tuple(ids), (True,) * LENGTH)] * ROWS, "padded", 0)

    def step() -> None:
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                total = loss(*tensors)
            total.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # makes the optimizer's states
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    held = peak = 0
    results = recorded.profiler.kineto_results
    for event in sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return peak + sum(tensor.nbytes for tensor in (*model.parameters(), *states))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("weights", "precision"), [("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "bf16")])
def test_the_peak_of_a_real_step_is_foreseen(weights: str, precision: memory.Precision, checkpointing: bool) -> None:
    check_peak(SMALL, weights, precision, checkpointing)


@pytest.mark.parametrize(("weights", "precision"), [("fp32", "fp32"), ("bf16", "bf16")])
def test_the_peak_is_foreseen_where_the_loss_is_taken_in_chunks(weights: str, precision: memory.Precision) -> None:
    check_peak(LARGE_VOCABULARY, weights, precision, checkpointing=False)


def check_peak(config: dict[str, object], weights: str, precision: memory.Precision, checkpointing: bool) -> None:
    hyperparams = Hyperparams.model_validate(
        {
            "weights_precision": weights,
            "batch_size": ROWS,
            "max_length": LENGTH,
            "use_gradient_checkpointing": checkpointing,
        }
    )
    setup = Setup(ModelShape.of_config(config, "small"), hyperparams, precision, "cpu")
    predicted = plan_memory(setup, ROWS * LENGTH).total - CPU_CONTEXT
    ratio = predicted / measured_peak(config, hyperparams, precision)
    assert 0.95 < ratio < 1.15, f"predicted {ratio:.2f} of what was measured"


def test_the_loss_is_taken_in_chunks_of_the_size_that_is_planned_for() -> None:
    assert memory.MAX_LOGITS == cross_entropy.MAX_LOGITS


def test_a_full_fine_tune_of_4b_on_24_gb_is_planned_as_it_was_measured() -> None:
    """Paged 8-bit AdamW, bf16, checkpointing, one row of 512 tokens: 18.6 GB on an RTX 4090."""
    setup = make_setup(
        "qwen3-4b",
        max_batch_tokens=512,
        weights_precision="bf16",
        use_gradient_checkpointing=True,
        optimizer={"type": "paged_adamw_8bit"},
    )
    plan = plan_memory(setup)
    assert plan.total == pytest.approx(18.6 * GB, rel=0.05)
    assert plan.host_bytes == pytest.approx(8.3 * GB, rel=0.01)


def test_what_fits_is_not_refused() -> None:
    assert refusal(make_setup(max_batch_tokens=2048, max_length=2048), 24 * GB, "the GPU") is None


def test_a_refusal_names_each_setting_that_is_enough_alone_and_how_far_to_change_it() -> None:
    setup = make_setup(max_batch_tokens=16384)
    found = advise(setup, 24 * GB)
    assert [advice.change.split(" to ")[0] for advice in found] == [
        "hyperparams.max_batch_tokens",
        "hyperparams.use_gradient_checkpointing",
    ]
    assert all(advice.total <= 24 * GB for advice in found)
    sentence = refusal(setup, 24 * GB, "the GPU")
    assert sentence is not None and "gradient_accumulation to 4 for steps of the same size" in sentence
    assert "the largest part is activations" in sentence


def test_where_no_setting_is_enough_alone_the_fewest_together_are_named() -> None:
    (advice,) = advise(make_setup("qwen3-4b"), 24 * GB)
    assert advice.change == (
        "hyperparams.max_batch_tokens to 512 instead of 16384 (gradient_accumulation to 32 for steps of the same size) "
        "and hyperparams.optimizer.type to paged_adamw_8bit and hyperparams.weights_precision to bf16"
    )
    assert advice.total <= 24 * GB


def test_what_would_be_accumulated_past_its_bound_is_not_advised() -> None:
    (advice,) = advise(make_setup("qwen3-4b", gradient_accumulation=64), 24 * GB)
    assert "(steps become smaller)" in advice.change and "gradient_accumulation" not in advice.change


def test_lora_is_named_only_where_all_weights_cannot_be_trained() -> None:
    (advice,) = advise(make_setup("qwen3-4b"), 13 * GB)
    assert "lora.rank to 16" in advice.change
    assert advice.total <= 13 * GB


def test_several_changes_that_keep_all_weights_come_before_lora_alone() -> None:
    (advice,) = advise(make_setup("qwen3-0.6b"), 8 * GB)
    assert "lora" not in advice.change and " and " in advice.change
    assert advice.total <= 8 * GB


@pytest.mark.parametrize(("device", "gigabytes"), [("cuda", 1), ("cpu", 4)])
def test_where_nothing_is_enough_the_sentence_says_so(device: Literal["cuda", "cpu"], gigabytes: int) -> None:
    """Not a lower max_length, where the weights alone are too large."""
    sentence = refusal(replace(make_setup("qwen3-4b"), device=device), gigabytes * GB, "here")
    assert sentence is not None
    assert sentence.endswith("no hyperparams are enough at a max_length of 512; take a smaller model or more memory")


def test_where_no_setting_is_enough_the_fewest_gpus_that_share_the_weights_are_named() -> None:
    sentence = refusal(make_setup("qwen3-4b", optimizer={"type": "paged_adamw_8bit"}), 4 * GB, "the GPU")
    assert sentence is not None and "max_length to" not in sentence
    assert (
        "distributed.sharding to full and distributed.processes to 4 (a GPU each) and hyperparams.optimizer.type to "
        "adamw and " in sentence
    )
    assert sentence.endswith("hyperparams.lora.rank to 16 (peak then 3.77 GB)")


def test_a_lower_max_length_is_named_where_it_is_enough_and_how_low() -> None:
    setup = make_setup("qwen3-4b", max_length=16384)
    sentence = refusal(setup, 10 * GB, "the GPU")
    assert sentence is not None and "; or set hyperparams.max_length to 512 and hyperparams.use_gradient" in sentence
    assert advise(setup.changed(max_length=512), 10 * GB)
    assert not advise(setup.changed(max_length=1024), 10 * GB)


def test_no_optimizer_is_advised_whose_states_cannot_be_cut_up() -> None:
    changes = [
        advice.change
        for size in range(2, 80, 3)
        for advice in advise(replace(make_setup("qwen3-4b"), shards=2), size * GB)
    ]
    assert changes and not any("optimizer.type" in change for change in changes)


def test_a_run_is_refused_only_if_one_row_does_not_fit() -> None:
    told: list[str] = []
    require_fit(make_setup(max_batch_tokens=16384), 24 * GB, "the GPU", told.append)
    assert len(told) == 1 and "they will be halved where they do not fit" in told[0]
    with pytest.raises(OutOfMemory, match=r"hyperparams\.optimizer\.type to paged_adamw_8bit"):
        require_fit(make_setup("qwen3-4b"), 24 * GB, "the GPU", told.append)


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "muon"])
def test_every_optimizer_has_a_plan(name: str) -> None:
    adamw = plan_memory(make_setup()).total
    assert plan_memory(make_setup(optimizer={"type": name})).total <= adamw


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("beta2", [0.98, 0.999])
@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "muon"])
def test_what_is_advised_is_a_setting_that_is_accepted(name: str, beta2: float, device: Literal["cuda", "cpu"]) -> None:
    setup = replace(make_setup("qwen3-4b", optimizer={"type": name, "adamw": {"beta2": beta2}}), device=device)
    changes = [advice.change for size in range(8, 96, 4) for advice in advise(setup, size * GB)]
    assert any("lora.rank" in change for change in changes)
    for change in changes:
        kept_muon = name == "muon" and "optimizer.type" not in change
        assert not (kept_muon and ("lora.rank" in change or "to bf16" in change))


def test_weights_that_are_cut_up_are_shared_among_the_devices() -> None:
    alone = make_setup(max_batch_tokens=512)
    shared = Setup(alone.shape, alone.hyperparams, "bf16", "cuda", shards=2)
    assert plan_memory(shared).parts[0].bytes * 2 == plan_memory(alone).parts[0].bytes


def test_packs_on_a_cpu_are_planned_with_the_mask_that_attention_takes() -> None:
    shape = ModelShape.of_config(SMALL, "small")
    padded, packed = (
        Setup(shape, Hyperparams.model_validate({"max_batch_tokens": 4096, "layout": layout}), "fp32", "cpu")
        for layout in ("padded", "packed")
    )
    assert packed.most_tokens == 4096
    parts = {part.name: part.bytes for part in plan_memory(packed).parts}
    assert parts["masks of the packs"] == 4 * 4.5 * 4096**2
    assert "masks of the packs" not in {part.name for part in plan_memory(padded).parts}


def test_padded_rows_on_a_gpu_are_no_more_than_their_number_times_their_length() -> None:
    setup = make_setup(batch_size=2, max_length=512, layout="padded")
    assert setup.most_tokens == 1024


def test_a_processs_cap_on_a_gpu_is_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 * GB, 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5 * GB)
    for fraction, budget in ((1.0, 75), (0.3, 24)):
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _, share=fraction: share)
        assert memory_bytes(torch.device("cuda")) == budget * GB
