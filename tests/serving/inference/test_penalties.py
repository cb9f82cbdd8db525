"""Penalties are OpenAI's and CTRL's formulas, token by token of a row's own text."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from serving.inference.engine import Sampling
from serving.inference.penalties import RowPenalties, penalise

V = 12
CPU = torch.device("cpu")
tokens = st.lists(st.integers(0, V - 1), max_size=8)
samplings = st.builds(
    Sampling,
    presence_penalty=st.sampled_from([0.0, 0.5, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.25, 2.0, -1.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    logit_bias=st.dictionaries(st.integers(0, V - 1), st.sampled_from([-100.0, 1.5, 100.0]), max_size=3),
)
rows = st.tuples(samplings, tokens, tokens)


def wanted(logits: torch.Tensor, sampling: Sampling, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The formulas, written out."""
    if prompt or answer:
        repetition = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
        logits = repetition(torch.tensor([prompt + answer]), logits.clone().unsqueeze(0))[0]
    counts = Counter(answer)
    return torch.stack(
        [
            logits[token]
            + sampling.logit_bias.get(token, 0.0)
            - counts[token] * sampling.frequency_penalty
            - (counts[token] > 0) * sampling.presence_penalty
            for token in range(V)
        ]
    )


@settings(max_examples=100, deadline=None)
@given(batch=st.lists(rows, min_size=1, max_size=5), steps=st.integers(1, 8))
def test_each_row_of_a_batch_gets_its_own_formulas_however_its_tokens_come(
    batch: list[tuple[Sampling, list[int], list[int]]], steps: int
) -> None:
    scores = torch.randn(len(batch) + 1, V, generator=torch.Generator().manual_seed(1))
    before, made = scores.clone(), []
    for index, (sampling, prompt, answer) in enumerate(batch):
        if RowPenalties.needed(sampling):
            penalties = RowPenalties(sampling, prompt, V, CPU)
            for begin in range(0, len(answer), steps):
                penalties.take(answer[begin : begin + steps])
            made.append((index, penalties))
    penalised = penalise(scores, made)
    for index, (sampling, prompt, answer) in enumerate(batch):
        assert torch.allclose(penalised[index], wanted(scores[index], sampling, prompt, answer), atol=1e-5)
    assert torch.equal(penalised[-1], scores[-1])
    assert torch.equal(scores, before)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_k=3, min_p=0.1, seed=1)])
def test_rows_that_ask_for_none_need_none(sampling: Sampling) -> None:
    assert not RowPenalties.needed(sampling)
