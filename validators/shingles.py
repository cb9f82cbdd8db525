"""Token ids to hashed shingles, MinHash signatures and the bands under which similar rows meet.

Whole batches at once, in numpy; no shingle ever becomes a Python object. The signature of given
token ids never changes: signatures are kept on disk (`validators/history.py`), so a change here
is a new format there.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

SHINGLE_TOKENS = 5
NUM_PERMUTATIONS = 128
BANDS = 18
BAND_ROWS = 7
"""Two rows meet if one of 18 bands of 7 values is equal: 0.985 of the pairs at Jaccard 0.8, 0.13 at 0.5."""
_SEED = 42
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BAND_KEY_SHIFT = np.uint64(17)
_CHANCE = 1 / 256
_PAIRS_AT_ONCE = 2**15

Ids = NDArray[np.integer]
Number = TypeVar("Number", np.int64, np.uint64)
Signatures = NDArray[np.uint8]
ShingleSet = NDArray[np.uint32]


class Shingles(NamedTuple):
    """Hashes of all rows' shingles, one row after the other; row i has `hashes[offsets[i]:offsets[i + 1]]`."""

    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]


def hash_shingles(rows: Sequence[Ids]) -> Shingles:
    """Every run of 5 tokens of each row; a row of fewer tokens is one shingle."""
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    starts = np.concatenate(([0], np.cumsum(lengths)))[:-1]
    padding = np.zeros(SHINGLE_TOKENS, np.uint64)
    tokens = np.concatenate([*(row.astype(np.uint64) + np.uint64(1) for row in rows), padding])
    hashes = tokens.copy()
    short_rows = {}
    for length in range(1, SHINGLE_TOKENS):
        positions = starts[lengths == length]
        short_rows[length] = positions, hashes[positions]
        hashes *= _BASE
        hashes[:-length] += tokens[length:]
    for positions, values in short_rows.values():
        hashes[positions] = values
    counts = np.maximum(lengths - (SHINGLE_TOKENS - 1), np.minimum(lengths, 1))
    _, positions = expand(starts, counts)
    hashes = _with_empty_rows(_mix(hashes[positions]), counts)
    return Shingles(hashes, np.concatenate(([0], np.cumsum(np.maximum(counts, 1)))))


def sign(shingles: Shingles) -> Signatures:
    """A row of 128 bytes each: the lowest 8 bits of its 128 minimal hashes.

    8 bits agree by chance once in 256 times, which `estimate_similarity` takes off again.
    """
    offsets = shingles.offsets.astype(np.uint64)
    if len(offsets) == 1:
        return np.zeros((0, NUM_PERMUTATIONS), np.uint8)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles.hashes, offsets, NUM_PERMUTATIONS, _SEED)
    return np.array(matrix.to_rows(), np.uint32).astype(np.uint8)


def band_keys(signatures: Signatures) -> NDArray[np.int64]:
    """The 18 keys of each row, non-negative and under 2**47; which band a key is of is part of it."""
    packed = np.zeros((len(signatures), BANDS), np.uint64)
    for place in range(BAND_ROWS):
        packed = packed << np.uint64(8) | signatures[:, place : BANDS * BAND_ROWS : BAND_ROWS]
    packed |= np.arange(BANDS, dtype=np.uint64) << np.uint64(8 * BAND_ROWS)
    return (_mix(packed) >> _BAND_KEY_SHIFT).astype(np.int64)


def shingle_sets(shingles: Shingles) -> list[ShingleSet]:
    """Each row's distinct shingles, sorted, as 32 bits each."""
    counts = np.diff(shingles.offsets)
    keys = np.repeat(np.arange(len(counts), dtype=np.uint64) << np.uint64(32), counts)
    keys |= shingles.hashes >> np.uint64(32)
    keys = sorted_distinct(keys)
    ends = np.searchsorted(keys >> np.uint64(32), np.arange(1, len(counts), dtype=np.uint64))
    return np.split(keys.astype(np.uint32), ends) if len(counts) else []


def estimate_similarity(
    left: Signatures, left_rows: NDArray[np.int64], right: Signatures, right_rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Jaccard similarity of pairs of rows by their signatures; its standard error is 0.03 at 0.8."""
    estimates = np.empty(len(left_rows))
    for begin in range(0, len(left_rows), _PAIRS_AT_ONCE):
        part = slice(begin, begin + _PAIRS_AT_ONCE)
        equal = np.count_nonzero(left[left_rows[part]] == right[right_rows[part]], axis=1)
        estimates[part] = equal / NUM_PERMUTATIONS
    return np.maximum(0.0, (estimates - _CHANCE) / (1 - _CHANCE))


def jaccard(left: Sequence[ShingleSet], right: Sequence[ShingleSet]) -> NDArray[np.float64]:
    """Exact similarity of each pair of sets."""
    sizes = np.fromiter((len(one) + len(other) for one, other in zip(left, right, strict=True)), np.int64, len(left))
    shingles = np.concatenate(
        [np.zeros(0, np.uint32), *(each for pair in zip(left, right, strict=True) for each in pair)]
    )
    keys = np.repeat(np.arange(len(sizes), dtype=np.uint64) << np.uint64(32), sizes) | shingles
    keys.sort()
    common = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)
    shared = np.bincount(common.astype(np.int64), minlength=len(sizes))
    return shared / (sizes - shared)


def expand(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every member of every range: the number of its range, and its position."""
    owners = np.repeat(np.arange(len(counts)), counts)
    begins = np.cumsum(counts) - counts
    return owners, np.arange(len(owners)) + np.repeat(starts - begins, counts)


def sorted_distinct(values: NDArray[Number]) -> NDArray[Number]:
    """What `np.unique` returns, many times as fast: that hashes before it sorts."""
    ordered = np.sort(values, axis=None)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))] if len(ordered) else ordered


def _with_empty_rows(hashes: NDArray[np.uint64], counts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A row without tokens has one shingle too, the same for all such rows."""
    ends = np.cumsum(counts)
    return np.insert(hashes, ends[counts == 0], np.uint64(0))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64: every bit of the input changes half of the output's."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
