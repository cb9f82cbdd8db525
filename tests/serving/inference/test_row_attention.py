"""A batch of requests of any lengths gets what each would get alone."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from serving.inference.row_attention import _attend

HEADS, GROUPS, SIZE = 4, 2, 8
requests = st.one_of(
    st.tuples(st.just(1), st.integers(1, 200)),
    st.tuples(st.integers(2, 40), st.just(0)),
    st.tuples(st.integers(1, 20), st.integers(1, 90)),
)
"""New tokens, and tokens in the cache before them."""


class Layer(torch.nn.Module):
    layer_idx = 0


class Cache:
    """A cache that holds each request's keys at places of no order."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.places = torch.randperm(keys.shape[1])
        self.keys, self.values = torch.empty_like(keys), torch.empty_like(values)
        self.keys[:, self.places], self.values[:, self.places] = keys, values

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, kwargs: Any) -> Any:
        (read,) = kwargs["read_index"]
        if not read.numel():
            return key, value
        return self.keys[None, :, read], self.values[None, :, read]


def expected(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One request: (tokens, H, D)."""
    new, length = query.shape[1], keys.shape[1]
    mask = torch.ones(new, length, dtype=torch.bool).tril(length - new)
    keys, values = (of.repeat_interleave(HEADS // GROUPS, dim=0) for of in (keys, values))
    return scaled_dot_product_attention(query[None], keys[None], values[None], attn_mask=mask)[0].transpose(0, 1)


@settings(max_examples=80, deadline=None)
@given(batch=st.lists(requests, min_size=1, max_size=7))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixed_batch_is_what_its_requests_are_alone(dtype: torch.dtype, batch: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    new, lengths = [new for new, _ in batch], [new + before for new, before in batch]
    query = torch.randn(HEADS, sum(new), SIZE).to(dtype)
    keys, values = (torch.randn(GROUPS, sum(lengths), SIZE).to(dtype) for _ in range(2))
    cache = Cache(keys, values)
    reads = cache.places if any(before for _, before in batch) else cache.places[:0]
    ends_q, ends_k = (torch.tensor([0, *sizes]).cumsum(0) for sizes in (new, lengths))
    output, _ = _attend(
        Layer(),
        query[None],
        keys[None],
        values[None],
        None,
        cache,  # type: ignore[arg-type]
        SIZE**-0.5,
        cu_seq_lens_q=ends_q,
        cu_seq_lens_k={"full_attention": ends_k},
        read_index=[reads],
    )
    for row in range(len(batch)):
        of_q, of_k = slice(*ends_q[row : row + 2].tolist()), slice(*ends_k[row : row + 2].tolist())
        alone = expected(query[:, of_q], keys[:, of_k], values[:, of_k])
        assert torch.allclose(output[0, of_q].float(), alone.float(), atol=1e-5 if dtype == torch.float32 else 2e-2)
