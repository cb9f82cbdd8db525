"""Attention over packs: documents do not see each other, whichever function does it."""

from contextlib import nullcontext
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import varlen
from torch.nn.attention.flex_attention import create_block_mask
from transformers import AutoModelForCausalLM, PhimoeConfig, PhimoeForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gpu_assets.errors import ModelUnsupported
from gpu_assets.rendering import Sample
from gpu_assets.training.attention import FLEX, SDPA, VARLEN, attention_for, document_mask
from gpu_assets.training.loss import SupervisedLoss, collate
from gpu_assets.training.records import Numerics
from tests.training.test_cross_entropy import LargestTensor

LENGTHS = (5, 130, 1, 24)
WINDOWED: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.3,
    "use_sliding_window": True,
    "layer_types": ["full_attention", "sliding_attention"],
}


def samples() -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(0, 500, (length,), generator=generator).tolist() for length in LENGTHS]
    return [Sample(tuple(ids), (False,) + (True,) * (len(ids) - 1)) for ids in drawn]


def pack_loss(folder: Path, attention: str, device: str, dtype: torch.dtype) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).to(device)
    tensors = collate(samples(), "packed", pad_id=0).to(torch.device(device))
    result: torch.Tensor = SupervisedLoss(model)(*tensors)
    return result


class Recorded(Exception):
    """What ends a forward pass that has been looked at."""


def reference_mask(bounds: list[int], window: int | None) -> torch.Tensor:
    """Of all pairs of positions, queries by keys."""
    places = torch.arange(bounds[-1])
    document = torch.bucketize(places, torch.tensor(bounds[1:]), right=True)
    distance = places[:, None] - places[None, :]
    seen = (distance >= 0) & (document[:, None] == document[None, :])
    return seen if window is None else seen & (distance < window)


def varlen_by_sdpa(query, key, value, bounds, key_bounds, longest, longest_key, *, scale, window_size, enable_gqa):
    """Torch's kernel as its documentation has it, document by document; windows are (before, after)."""
    assert query.shape[0] == key.shape[0] == value.shape[0] == int(bounds[-1])
    assert bounds.dtype == torch.int32 and torch.equal(bounds, key_bounds)
    assert longest == longest_key == int(bounds.diff().max())
    assert enable_gqa or query.shape[1] == key.shape[1]
    before, after = window_size
    outputs = []
    for start, end in pairwise(bounds.tolist()):
        parts = (part[start:end].transpose(0, 1).unsqueeze(0) for part in (query, key, value))
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)[None, :]
        seen = torch.ones_like(distance, dtype=torch.bool)
        if before >= 0:
            seen &= distance <= before
        if after >= 0:
            seen &= -distance <= after
        output = functional.scaled_dot_product_attention(*parts, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        outputs.append(output.squeeze(0).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 1, 100, 128, 129, 200])
@pytest.mark.parametrize("lengths", [LENGTHS, (300,), (128, 128), (127, 129, 1, 400), (1,)])
def test_a_document_mask_is_causal_within_each_document_and_window(
    lengths: tuple[int, ...], window: int | None
) -> None:
    """In its blocks too: none is left out that holds a pair, and none is whole that lacks one."""
    bounds = list(accumulate(lengths, initial=0))
    mask = document_mask(torch.tensor(bounds, dtype=torch.int32), window)
    wanted = reference_mask(bounds, window)
    places, zero = torch.arange(bounds[-1]), torch.tensor(0)
    of_all_keys = torch.vmap(mask.mask_mod, (None, None, None, 0))
    assert torch.equal(torch.vmap(of_all_keys, (None, None, 0, None))(zero, zero, places, places), wanted)

    def seen(_row: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return wanted[query, key]

    made = create_block_mask(seen, B=None, H=None, Q_LEN=bounds[-1], KV_LEN=bounds[-1], device="cpu")
    assert torch.equal(mask.to_dense(), made.to_dense())
    assert torch.equal(mask.full_kv_num_blocks, made.full_kv_num_blocks)


def test_a_document_mask_never_holds_all_pairs_of_positions() -> None:
    with LargestTensor() as largest:
        document_mask(torch.tensor([0, 5_000, 10_000], dtype=torch.int32))
    assert largest.elements <= 10_000


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_loss_of_the_block_mask(tiny_folder: Path) -> None:
    expected, found = (pack_loss(tiny_folder, name, "cpu", torch.float32) for name in (SDPA, FLEX))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_variable_length_attention_gives_loss_and_gradient_of_the_block_mask(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_by_sdpa)
    results = []
    for attention in (SDPA, VARLEN):
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, attn_implementation=attention)
        value = SupervisedLoss(model)(*collate(samples(), "packed", pad_id=0))
        value.backward()
        results.append((value.item(), model.model.layers[0].self_attn.k_proj.weight.grad))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    torch.testing.assert_close(results[1][1], results[0][1], atol=1e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [VARLEN, FLEX])
@pytest.mark.parametrize("window", [1, 7, 129, 130, 4096])
def test_a_window_is_that_of_transformers_own_attention(
    window: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every second layer, with fewer key heads than query heads; each document alone in the reference."""
    monkeypatch.setattr(varlen, "varlen_attn", varlen_by_sdpa)
    torch.manual_seed(0)
    config = Qwen3Config(**WINDOWED, sliding_window=window)
    model = Qwen3ForCausalLM(config).eval()
    loss = SupervisedLoss(model)
    model.set_attn_implementation("eager")
    wanted = sum(loss(*collate([sample], "padded", pad_id=0)).item() for sample in samples())
    model.set_attn_implementation(name)
    assert loss(*collate(samples(), "packed", pad_id=0)).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", [SDPA, VARLEN, FLEX])
def test_each_attention_is_given_what_it_takes_and_no_mask_is_built(
    name: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at in the first layer of a real forward pass: SDPA alone is given a mask."""
    seen: dict[str, object] = {}

    def record(module, query, key, value, attention_mask, **others):
        seen.update(others, attention_mask=attention_mask)
        raise Recorded

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation=name)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, name, record)
    with pytest.raises(Recorded):
        SupervisedLoss(model)(*collate(samples(), "packed", pad_id=0))
    assert (seen["attention_mask"] is None) == (name != SDPA)
    about_documents = {"bounds", "longest", "document_masks"} & seen.keys()
    assert about_documents == {SDPA: set(), VARLEN: {"bounds", "longest"}, FLEX: {"document_masks", "longest"}}[name]


CHANGES: dict[str, Any] = {
    "softcap": 50.0,
    "s_aux": torch.zeros(4),
    "dropout": 0.1,
    "is_causal": False,
    "position_bias": torch.zeros(1),
    "what_is_not_known": 1,
}


def call(name: str, attention_mask: torch.Tensor | None = None, **others: Any) -> None:
    bounds = torch.tensor([0, 2, 5], dtype=torch.int32)
    parts = [torch.randn(1, 4, 5, 16) for _ in range(3)]
    documents: dict[str, Any] = {"bounds": bounds, "longest": 3}
    if name == FLEX:
        documents = {"document_masks": {None: document_mask(bounds)}, "longest": 3}
    ALL_ATTENTION_FUNCTIONS[name](torch.nn.Identity(), *parts, attention_mask, **documents, **others)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [VARLEN, FLEX])
def test_what_an_attention_does_not_do_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_by_sdpa)
    call(name, dropout=0.0, is_causal=True, softcap=None, s_aux=None, position_ids=torch.arange(5), use_cache=False)
    for argument, value in CHANGES.items():
        with pytest.raises(ModelUnsupported, match=f"Identity asks for attention with {argument}, which {name}"):
            call(name, **{argument: value})
    with pytest.raises(ModelUnsupported, match="attention with attention_mask"):
        call(name, torch.ones(1, 1, 5, 5))


@pytest.mark.parametrize(("size", "value_size"), [(20, 20), (264, 264), (192, 128)])
def test_heads_of_a_size_that_the_kernel_does_not_take_are_refused_by_name(
    size: int, value_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_by_sdpa)
    parts = [torch.randn(1, 4, 5, width) for width in (size, size, value_size)]
    bounds = torch.tensor([0, 2, 5], dtype=torch.int32)
    with pytest.raises(ModelUnsupported, match=f"Identity has heads of size {size} with values of size {value_size};"):
        ALL_ATTENTION_FUNCTIONS[VARLEN](torch.nn.Identity(), *parts, None, bounds=bounds, longest=3)


def test_a_window_that_no_mask_was_made_for_is_refused() -> None:
    with pytest.raises(ModelUnsupported, match="attention with sliding_window"):
        call(FLEX, sliding_window=2)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [VARLEN, FLEX])
def test_a_window_that_a_model_says_to_its_mask_only_is_refused_where_a_document_is_longer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_by_sdpa)
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    longest = max(len(sample.ids) for sample in samples())
    for window, is_refused in ((longest - 1, True), (longest, False)):
        config = PhimoeConfig(vocab_size=WINDOWED["vocab_size"], num_key_value_heads=2, sliding_window=window, **sizes)
        model = PhimoeForCausalLM(config).eval()
        model.set_attn_implementation(name)
        refusal = pytest.raises(ModelUnsupported, match="PhimoeAttention asks for attention with attention_mask")
        with refusal if is_refused else nullcontext():
            SupervisedLoss(model)(*collate(samples(), "packed", pad_id=0))


def test_a_layer_that_is_not_causal_is_refused() -> None:
    module = torch.nn.Identity()
    module.is_causal = False  # type: ignore[assignment]
    with pytest.raises(ModelUnsupported, match="attention with is_causal"):
        ALL_ATTENTION_FUNCTIONS[FLEX](
            module, *[torch.zeros(1, 1, 1, 1)] * 3, None, document_masks={None: None}, longest=1
        )


@pytest.mark.parametrize(
    "numerics",
    [Numerics("cpu", "fp32", "padded"), Numerics("cpu", "fp32", "packed"), Numerics("cuda", "bf16", "padded")],
)
def test_on_a_cpu_and_for_padded_rows_it_is_sdpa(numerics: Numerics) -> None:
    assert attention_for(numerics) == SDPA


def test_in_full_precision_on_a_gpu_it_is_flex_attention() -> None:
    assert attention_for(Numerics("cuda", "fp32", "packed")) == FLEX


@pytest.mark.gpu
@pytest.mark.parametrize("name", [VARLEN, FLEX])
def test_on_a_gpu_loss_and_gradient_are_those_of_the_block_mask(name: str, tiny_folder: Path) -> None:
    results = []
    for attention in (SDPA, name):
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation=attention).to("cuda")
        loss = SupervisedLoss(model)
        with torch.autocast("cuda", torch.bfloat16):
            value = loss(*collate(samples(), "packed", pad_id=0).to(torch.device("cuda")))
        value.backward()
        results.append((value.item(), model.model.layers[0].self_attn.q_proj.weight.grad))
    assert results[1][0] == pytest.approx(results[0][0], rel=5e-3)
    torch.testing.assert_close(results[1][1], results[0][1], atol=5e-2, rtol=5e-2)
