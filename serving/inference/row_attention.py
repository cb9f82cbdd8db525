"""Attention for a batch of requests of different lengths, each over its own keys only.

Without a kernel for paged attention, transformers lets every request of a batch attend over the keys of all of them
behind a mask: the work grows with the square of the batch. Here, requests that decode are padded to the longest of
about their length and computed as one batch, and those that are in their prompt are computed one by one. Imports torch
and transformers: loaded lazily, by the engine only. B is the number of requests in a group, K the longest context of
them, H the number of heads, G of key-value heads, D the size of a head.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.generation.continuous_batching.cache import PagedAttentionCache, group_layers_by_attn_type
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

NAME = "row_attention"
FULL = "full_attention"
_SHORT = 64
"""Contexts up to this are padded together."""


@dataclass(frozen=True)
class _Decoding:
    """Requests with one new token each: where it is in the batch, and which of its K keys count (B, 1, 1, K)."""

    queries: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class _Prompt:
    """One request with several new tokens; `mask` is None where nothing came before them."""

    queries: slice
    keys: int
    mask: torch.Tensor | None


@dataclass(frozen=True)
class _Plan:
    """How one batch is computed, the same in every layer; `read_index` brings the keys in the groups' order."""

    decoding: list[_Decoding]
    prompts: list[_Prompt]
    read_index: torch.Tensor


_of_thread = threading.local()
"""The plan of the batch that an engine's thread computes."""


def use_row_attention(model: PreTrainedModel) -> None:
    """Compute a model's attention here, if all of its layers look at the whole context; others stay as they are."""
    if list(group_layers_by_attn_type(model.config.get_text_config())) == [FULL]:
        AttentionInterface.register(NAME, _attend)
        model.set_attn_implementation(NAME)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cache: PagedAttentionCache | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Output of shape (1, tokens, H, D), for a query of (1, H, tokens, D) and keys of (1, G, tokens, D)."""
    if cache is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if layer == 0:  # a batch begins
        _of_thread.plan = _plan(kwargs["cu_seq_lens_q"], kwargs["cu_seq_lens_k"][FULL], kwargs["read_index"][0])
    plan: _Plan = _of_thread.plan
    key, value = cache.update(key, value, layer, kwargs | {"read_index": [plan.read_index]})
    output = torch.empty_like(query.transpose(1, 2))  # (1, tokens, H, D)
    begin = 0
    for group in plan.decoding:
        end = begin + group.mask.shape[0] * group.mask.shape[-1]
        own = query[0, :, group.queries].transpose(0, 1)  # (B, H, D)
        output[0, group.queries] = _decode(own, key[0, :, begin:end], value[0, :, begin:end], group.mask, scaling)
        begin = end
    for prompt in plan.prompts:
        end = begin + prompt.keys
        own = query[:, :, prompt.queries]
        output[:, prompt.queries] = _read(own, key[:, :, begin:end], value[:, :, begin:end], prompt.mask, scaling)
        begin = end
    return output, None


def _decode(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """(B, H, D), for one query each, of (B, H, D), and keys of (G, B * K, D); key-value heads are not repeated."""
    requests, heads = mask.shape[0], key.shape[0]
    packed = query.unflatten(1, (heads, -1))  # (B, G, H/G, D)
    key, value = (of.unflatten(1, (requests, -1)).transpose(0, 1) for of in (key, value))  # (B, G, K, D)
    return scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scaling).flatten(1, 2)


def _read(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """(1, tokens, H, D), for one request's part of its prompt, and the keys up to its end."""
    repeats = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling)
    return output.transpose(1, 2)


def _plan(ends_q: torch.Tensor, ends_k: torch.Tensor, read_index: torch.Tensor) -> _Plan:
    """The plan of a batch, from where its requests' queries and keys end, each with a 0 before the first."""
    device = ends_q.device
    bounds_q, bounds_k = ends_q.tolist(), ends_k.tolist()
    alone, groups = [], defaultdict(list)
    for row, (begin, end) in enumerate(zip(bounds_q, bounds_q[1:], strict=False)):
        length = bounds_k[row + 1] - bounds_k[row]
        if end - begin == 1 and read_index.numel():
            groups[max(length, _SHORT).bit_length()].append((begin, bounds_k[row], length))
        else:
            alone.append((begin, end, bounds_k[row], length))
    decoding, reads = [], []
    for members in groups.values():
        queries, firsts, lengths = torch.tensor(members, device=device).unbind(1)
        places = torch.arange(max(length for _, _, length in members), device=device)
        counts = places < lengths.unsqueeze(1)
        reads.append(read_index[(firsts.unsqueeze(1) + places).where(counts, firsts.unsqueeze(1))].flatten())
        decoding.append(_Decoding(queries, counts[:, None, None, :]))
    prompts = []
    for begin, end, first, length in alone:
        before = length - (end - begin)
        mask = torch.ones(end - begin, length, dtype=torch.bool, device=device).tril(before) if before else None
        prompts.append(_Prompt(slice(begin, end), length, mask))
        reads.append(read_index[first : first + length])
    return _Plan(decoding, prompts, torch.cat(reads))
