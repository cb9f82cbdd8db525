"""Attention that never crosses the documents of a pack. Torch code: import inside the function that needs it.

Two functions in transformers' `AttentionInterface`, neither of which needs a mask to be built: torch's
variable-length kernel, which is FlashAttention and takes the documents' bounds, and `flex_attention`, which is
compiled and takes a block mask made once a forward pass. Where neither runs, SDPA does, with transformers' block
mask of all pairs of positions.

Shapes: B rows, H heads, T positions, D a head's size, N documents.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig

from gpu_assets.errors import ModelUnsupported
from gpu_assets.training.records import Numerics

VARLEN = "documents_varlen"
FLEX = "documents_flex"
SDPA = "sdpa"

MIN_CAPABILITY = (8, 0)
"""Of the device's: FlashAttention needs Ampere or later."""
BLOCK = 128
"""Positions of one of `flex_attention`'s blocks, of queries and of keys."""
HEAD_STEP, MAX_HEAD_SIZE = 8, 256
"""Of torch's variable-length kernel: heads are a multiple of the one and at most the other."""
HARMLESS = {
    "position_ids",
    "position_embeddings",
    "cache_position",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "num_items_in_batch",
}
"""Arguments that models pass to their attention and no function of transformers' computes with."""


@dataclass(frozen=True)
class Window:
    """In the place of a mask that shows each position the last `size` only: the attention is told it otherwise too."""

    size: int


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
        return {"document_masks": document_masks(config, bounds, longest), "longest": longest}
    return {}


def document_masks(config: PreTrainedConfig, bounds: torch.Tensor, longest: int) -> dict[int | None, BlockMask]:
    """By the window of the layers that they are for; a window that is no shorter than any document is none."""
    masks: dict[int | None, BlockMask] = {None: document_mask(bounds)}
    window = getattr(config, "sliding_window", None)
    if window is not None:
        masks[window] = masks[None] if window >= longest else document_mask(bounds, window)
    return masks


def document_mask(bounds: torch.Tensor, window: int | None = None) -> BlockMask:
    """Causal within each document, the last `window` positions of it; in blocks, never as all pairs of positions."""
    positions_T = torch.arange(int(bounds[-1]), device=bounds.device)
    first_T = bounds[torch.bucketize(positions_T, bounds[1:], right=True)].long()  # that a position sees
    if window is not None:
        first_T = torch.maximum(first_T, positions_T - window + 1)

    def sees(_row: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query >= key) & (key >= first_T[query])

    starts = positions_T[::BLOCK]
    ends = (starts + BLOCK - 1).clamp(max=len(positions_T) - 1)
    key_starts, query_starts = starts.unsqueeze(0), starts.unsqueeze(1)
    seen = (key_starts <= query_starts) & (key_starts + BLOCK > first_T[starts].unsqueeze(1))
    is_whole = query_starts + BLOCK <= len(positions_T)
    is_full = is_whole & (key_starts < query_starts) & (key_starts >= first_T[ends].unsqueeze(1))
    return BlockMask.from_kv_blocks(
        *_ordered(seen & ~is_full),
        *_ordered(is_full),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(len(positions_T), len(positions_T)),
    )


def _ordered(blocks_QK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many key blocks each query block has, and which: those that it has first, as a `BlockMask` takes them."""
    counts_Q = blocks_QK.sum(-1, dtype=torch.int32)
    indices_QK = blocks_QK.int().argsort(dim=-1, descending=True, stable=True).int()
    return counts_Q[None, None], indices_QK[None, None]


def varlen_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: Window | None,
    *,
    bounds: torch.Tensor,
    longest: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """One packed row through torch's variable-length kernel; with weights in fp32, queries and keys are too.

    Raises:
        ModelUnsupported: if the layer asks for what the kernel does not do.
    """
    from torch.nn.attention import varlen

    _refuse_others(module, VARLEN, _unknown_mask(attention_mask, sliding_window, longest), others)
    _refuse_head_sizes(module, query_BHTD.shape[-1], value_BHTD.shape[-1])
    before = -1 if sliding_window is None or sliding_window >= longest else sliding_window - 1
    dtype = value_BHTD.dtype
    query, key, value = (part.squeeze(0).transpose(0, 1).to(dtype) for part in (query_BHTD, key_BHTD, value_BHTD))
    output = varlen.varlen_attn(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(before, 0),
        enable_gqa=True,
    )
    assert isinstance(output, torch.Tensor)
    return output.unsqueeze(0), None


def flex_document_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: Window | None,
    *,
    document_masks: dict[int | None, BlockMask],
    longest: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """One packed row through `flex_attention`, compiled on a GPU.

    Raises:
        ModelUnsupported: if the layer asks for what this does not do.
    """
    if sliding_window not in document_masks:
        others["sliding_window"] = sliding_window
    _refuse_others(module, FLEX, _unknown_mask(attention_mask, sliding_window, longest), others)
    dtype = value_BHTD.dtype
    run = _compiled_flex_attention() if query_BHTD.is_cuda else flex_attention
    output_BHTD = run(
        query_BHTD.to(dtype),
        key_BHTD.to(dtype),
        value_BHTD,
        block_mask=document_masks[sliding_window],
        scale=scaling,
        enable_gqa=True,
    )
    return output_BHTD.transpose(1, 2), None


def _refuse_head_sizes(module: torch.nn.Module, size: int, value_size: int) -> None:
    """Where the kernel itself would end in an error that names no model."""
    if size == value_size and size % HEAD_STEP == 0 and size <= MAX_HEAD_SIZE:
        return
    raise ModelUnsupported(
        f"{type(module).__name__} has heads of size {size} with values of size {value_size}; {VARLEN} of packs takes "
        f"one size for both, a multiple of {HEAD_STEP} and at most {MAX_HEAD_SIZE}: set hyperparams.layout to padded"
    )


def _unknown_mask(mask: object, sliding_window: int | None, longest: int) -> object:
    """What a mask hides that the attention does not know of: nothing of a window that the layer names, or of one that
    no document is longer than.
    """
    known = isinstance(mask, Window) and (mask.size == sliding_window or mask.size >= longest)
    return None if known else mask


def _refuse_others(module: torch.nn.Module, attention: str, mask: object, others: dict[str, Any]) -> None:
    """Whatever changes the result must not be left out: what is not known to be harmless is taken to change it."""
    asked = {name: value for name, value in others.items() if name not in HARMLESS and value is not None}
    if mask is not None:
        asked["attention_mask"] = mask
    if not asked.get("dropout"):
        asked.pop("dropout", None)
    if asked.setdefault("is_causal", getattr(module, "is_causal", True)):
        del asked["is_causal"]
    if asked:
        raise ModelUnsupported(
            f"{type(module).__name__} asks for attention with {', '.join(sorted(asked))}, which {attention} of packs "
            "does not do: set hyperparams.layout to padded"
        )


@cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention)


def _no_mask(*_: Any, local_size: int | None = None, **__: Any) -> Window | None:
    """For transformers: the attention knows the documents without a mask. Some models say their window here only."""
    return None if local_size is None else Window(local_size)


AttentionInterface.register(VARLEN, varlen_attention)
AttentionInterface.register(FLEX, flex_document_attention)
AttentionMaskInterface.register(VARLEN, _no_mask)
AttentionMaskInterface.register(FLEX, _no_mask)
