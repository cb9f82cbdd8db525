"""Which rows share a micro-batch, in which order: a pure function of lengths and seed.

Two layouts with one interface. `padded` groups rows of similar length under a token budget and is
the faster one on a CPU. `packed` lays whole rows end to end with restarting positions, best fit,
and is for attention kernels that never cross a document. Knows nothing of torch.
"""

import hashlib
import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Layout = Literal["padded", "packed"]
Batch = tuple[int, ...]
"""Indices of the samples that share a micro-batch."""

_GROUPING_WINDOW = 20
"""Batches whose rows are sorted by length together: long enough to group, short enough to stay random."""
_PACKING_WINDOW = 100
"""Packs that are filled together: each window leaves one about half empty."""


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of one micro-batch; a sample longer than `tokens` is an error of the caller's."""

    rows: int
    tokens: int


def epoch_batches(lengths: Sequence[int], limits: BatchLimits, layout: Layout, seed: int) -> list[Batch]:
    """Every sample exactly once, shuffled by the seed.

    Raises:
        ValueError: if a sample is longer than a batch may be.
    """
    if lengths and max(lengths) > limits.tokens:
        raise ValueError(f"a sample of {max(lengths)} tokens fits no batch of {limits.tokens} tokens")
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[Batch] = []
    for window in _windows(order, lengths, limits, layout):
        fill = _fill_padded if layout == "padded" else _fill_packed
        grouped = fill(window, lengths, limits)
        rng.shuffle(grouped)
        batches.extend(grouped)
    return batches


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of one pass over the rows, from 0; the first has the seed itself, no later one that of another seed."""
    if epoch == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:8])


def share(batches: Sequence[Batch], processes: int, rank: int) -> list[Batch]:
    """What one of several processes takes of a step's micro-batches: as many as each other, all together every row.

    Whole ones as far as their number goes round; of each that is left over, every so many rows. Where it has fewer rows
    than there are processes, some get none of it.
    """
    whole = len(batches) // processes * processes
    return [*batches[rank:whole:processes], *(batch[rank::processes] for batch in batches[whole:])]


def padding_share(batches: Sequence[Batch], lengths: Sequence[int], layout: Layout, pack_tokens: int) -> float:
    """Share of the positions that hold no token, in [0, 1): computed for nothing, or left unused of packs so long."""
    if not batches:
        return 0.0
    if layout == "packed":
        positions = len(batches) * pack_tokens
    else:
        positions = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / positions


def _windows(order: list[int], lengths: Sequence[int], limits: BatchLimits, layout: Layout) -> list[list[int]]:
    """Cut the shuffled order into stretches of about as many batches as are filled together."""
    mean_length = max(1, sum(lengths) // max(1, len(lengths)))
    by_tokens = max(1, limits.tokens // mean_length)
    size = by_tokens * _PACKING_WINDOW if layout == "packed" else min(limits.rows, by_tokens) * _GROUPING_WINDOW
    return [order[start : start + size] for start in range(0, len(order), size)]


def _fill_padded(window: list[int], lengths: Sequence[int], limits: BatchLimits) -> list[Batch]:
    batches: list[Batch] = []
    current: list[int] = []
    for index in sorted(window, key=lambda index: lengths[index]):
        # ascending, so the newcomer is the longest and decides the padded size
        if current and (len(current) == limits.rows or (len(current) + 1) * lengths[index] > limits.tokens):
            batches.append(tuple(current))
            current = []
        current.append(index)
    return [*batches, tuple(current)] if current else batches


def _fill_packed(window: list[int], lengths: Sequence[int], limits: BatchLimits) -> list[Batch]:
    """Best fit, longest first: into the fullest pack that still has room."""
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what is left of each pack, and which it is; ascending
    for index in sorted(window, key=lambda index: -lengths[index]):
        fitting = bisect_left(rooms, (lengths[index], 0))
        if fitting < len(rooms):
            room, pack = rooms.pop(fitting)
            packs[pack].append(index)
        else:
            room, pack = limits.tokens, len(packs)
            packs.append([index])
        insort(rooms, (room - lengths[index], pack))
    return [tuple(members) for members in packs]
