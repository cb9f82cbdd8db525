"""Draws follow the softmax of what the filters leave, and a seed's noise is its own."""

import pytest
import torch

from serving.inference.engine import Sampling
from serving.inference.sampler import Sampler, filter_logits

CPU = torch.device("cpu")
LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1.0), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, top_k=2), {1, 3}),
        (Sampling(temperature=1.0, top_k=99), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, top_p=0.5), {1, 3}),
        (Sampling(temperature=1.0, top_p=0.01), {1}),
        (Sampling(temperature=1.0, top_p=0.0), {1}),
        (Sampling(temperature=1.0, top_p=0.95, top_k=3), {1, 2, 3}),
        (Sampling(temperature=1.0, min_p=0.6), {1, 3}),
        (Sampling(temperature=1.0, min_p=1.0), {1}),
        (Sampling(temperature=1.0, min_p=0.6, top_k=1), {1}),
        (Sampling(temperature=2.0, min_p=0.6), {1, 2, 3}),
        (Sampling(temperature=1e-30), {0, 1, 2, 3}),
    ],
)
def test_top_k_top_p_and_min_p_keep_the_likeliest(sampling: Sampling, kept: set[int]) -> None:
    other = Sampling(temperature=0.7, top_k=1, top_p=0.9, min_p=0.1)
    for filtered in (filter_logits(LOGITS, [sampling]), filter_logits(LOGITS.repeat(2, 1), [sampling, other])[:1]):
        assert {token for token in range(4) if filtered[0, token] > -torch.inf} == kept
        assert not filtered.isnan().any()


def test_sampled_tokens_follow_the_softmax() -> None:
    rows = 8000
    for seeds in ([None] * rows, range(rows)):
        drawn = Sampler(CPU).draw(
            LOGITS.repeat(rows, 1), [(row, Sampling(temperature=1.0, seed=seed), 5) for row, seed in enumerate(seeds)]
        )
        shares = torch.bincount(drawn.argmax(dim=-1), minlength=4) / rows
        assert torch.allclose(shares, LOGITS[0].exp(), atol=0.04)


@pytest.mark.parametrize("other", [2, 1 + 2**12, 1 + 2**32, -1])
def test_no_two_seeds_have_the_same_noise(other: int) -> None:
    scores = torch.zeros(1, 64)
    one, another = (Sampler(CPU).draw(scores, [(0, Sampling(temperature=1.0, seed=seed), 7)]) for seed in (1, other))
    assert not torch.equal(one, another)


def test_noise_without_a_seed_differs_between_samplers_as_it_would_between_servers() -> None:
    wide, row = torch.zeros(1, 4096), [(0, Sampling(temperature=1.0), 3)]
    torch.manual_seed(0)
    first = Sampler(CPU).draw(wide, row)
    torch.manual_seed(0)
    assert not torch.equal(first, Sampler(CPU).draw(wide, row))


def test_a_seed_gives_a_row_the_same_noise_wherever_it_stands_and_other_rows_none_of_it() -> None:
    scores, seeded = torch.randn(3, 64), Sampling(temperature=0.8, seed=-4)
    alone = Sampler(CPU).draw(scores[2:], [(0, seeded, 7)])
    among = Sampler(CPU).draw(scores, [(1, Sampling(temperature=1.0), 7), (2, seeded, 7)])
    assert torch.equal(among[2], alone[0])
    assert torch.equal(among[0], scores[0])
    assert not torch.equal(Sampler(CPU).draw(scores[2:], [(0, seeded, 8)]), alone)
