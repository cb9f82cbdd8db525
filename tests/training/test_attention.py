"""Attention over packs: documents do not see each other, whichever function does it."""

from itertools import accumulate
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gpu_assets.rendering import Sample
from gpu_assets.training.attention import FLEX, SDPA, VARLEN, attention_for, document_arguments, document_mask
from gpu_assets.training.loss import SupervisedLoss, collate
from gpu_assets.training.records import Numerics

LENGTHS = (5, 130, 1, 24)


def samples() -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(0, 500, (length,), generator=generator).tolist() for length in LENGTHS]
    return [Sample(tuple(ids), (False,) + (True,) * (len(ids) - 1)) for ids in drawn]


def pack_loss(folder: Path, attention: str, device: str, dtype: torch.dtype) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).to(device)
    tensors = collate(samples(), "packed", pad_id=0).to(torch.device(device))
    result: torch.Tensor = SupervisedLoss(model)(*tensors)
    return result


def test_a_document_mask_is_causal_within_each_document() -> None:
    bounds = list(accumulate(LENGTHS, initial=0))
    mask = document_mask(torch.tensor(bounds, dtype=torch.int32))
    places = torch.arange(sum(LENGTHS))
    document = torch.bucketize(places, torch.tensor(bounds[1:]), right=True)
    wanted = (places[:, None] >= places[None, :]) & (document[:, None] == document[None, :])
    zero = torch.tensor(0)
    of_all_keys = torch.vmap(mask.mask_mod, (None, None, None, 0))
    found = torch.vmap(of_all_keys, (None, None, 0, None))(zero, zero, places, places)
    assert torch.equal(found, wanted)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_loss_of_the_block_mask(tiny_folder: Path) -> None:
    expected, found = (pack_loss(tiny_folder, name, "cpu", torch.float32) for name in (SDPA, FLEX))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_attention_is_given_what_it_takes_and_no_mask_is_built(tiny_folder: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(tiny_folder).config
    bounds = torch.tensor([0, 2, 5], dtype=torch.int32)
    given = {}
    for name in (SDPA, VARLEN, FLEX):
        config._attn_implementation = name
        given[name] = set(document_arguments(config, bounds, longest=3))
    assert given == {SDPA: set(), VARLEN: {"bounds", "longest"}, FLEX: {"document_mask"}}


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
