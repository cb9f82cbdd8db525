"""Attention that never crosses the documents of a pack. Torch code: import inside the function that needs it.

Two functions in transformers' `AttentionInterface`, neither of which needs a mask to be built: torch's
variable-length kernel, which is FlashAttention and takes the documents' bounds, and `flex_attention`, which is
compiled and takes a block mask made once a forward pass. Where neither runs, SDPA does, with transformers' block
mask of all pairs of positions.

Shapes: B rows, H heads, T positions, D a head's size, N documents.
"""

from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig

from gpu_assets.training.records import Numerics

VARLEN = "documents_varlen"
FLEX = "documents_flex"
SDPA = "sdpa"

MIN_CAPABILITY = (8, 0)
"""Of the device's: FlashAttention needs Ampere or later."""


def attention_for(numerics: Numerics) -> str:
    """The fastest that runs: on a CPU, and for padded rows, which hold a document each, SDPA."""
    if numerics.device != "cuda" or numerics.layout != "packed":
        return SDPA
    if numerics.precision == "bf16" and torch.cuda.get_device_capability() >= MIN_CAPABILITY:
        return VARLEN
    return FLEX


def document_arguments(config: PreTrainedConfig, bounds: torch.Tensor, longest: int) -> dict[str, Any]:
    """What the decoder passes on to the attention of each layer about a pack's documents.

    Args:
        bounds: the N + 1 places between documents, int32, from 0 to the number of positions.
        longest: tokens of the longest document.
    """
    if config._attn_implementation == VARLEN:
        return {"bounds": bounds, "longest": longest}
    if config._attn_implementation == FLEX:
        return {"document_mask": document_mask(bounds)}
    return {}


def document_mask(bounds: torch.Tensor) -> BlockMask:
    """Causal within each document, in blocks."""
    lengths = bounds.diff()
    document_T = torch.repeat_interleave(torch.arange(len(lengths), device=bounds.device), lengths)

    def sees(_row: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query >= key) & (document_T[query] == document_T[key])

    positions = len(document_T)
    return create_block_mask(sees, B=None, H=None, Q_LEN=positions, KV_LEN=positions, device=bounds.device.type)


def varlen_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: None,
    *,
    bounds: torch.Tensor,
    longest: int,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """One packed row through torch's variable-length kernel; with weights in fp32, queries and keys are too."""
    from torch.nn.attention.varlen import varlen_attn

    dtype = value_BHTD.dtype
    query, key, value = (part.squeeze(0).transpose(0, 1).to(dtype) for part in (query_BHTD, key_BHTD, value_BHTD))
    output = varlen_attn(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=True,
    )
    assert isinstance(output, torch.Tensor)
    return output.unsqueeze(0), None


def flex_document_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: None,
    *,
    document_mask: BlockMask,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """One packed row through `flex_attention`, compiled on a GPU."""
    dtype = value_BHTD.dtype
    run = _compiled_flex_attention() if query_BHTD.is_cuda else flex_attention
    output_BHTD = run(
        query_BHTD.to(dtype),
        key_BHTD.to(dtype),
        value_BHTD,
        block_mask=document_mask,
        scale=scaling,
        enable_gqa=True,
    )
    return output_BHTD.transpose(1, 2), None


@cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention)


def _no_mask(*_: Any, **__: Any) -> None:
    """For transformers: the attention knows the documents without a mask."""


AttentionInterface.register(VARLEN, varlen_attention)
AttentionInterface.register(FLEX, flex_document_attention)
AttentionMaskInterface.register(VARLEN, _no_mask)
AttentionMaskInterface.register(FLEX, _no_mask)
