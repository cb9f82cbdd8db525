"""Rule CONTAMINATION: a row holds a piece of an evaluation item, so its score would measure memory.

Texts are compared as their lower-case letters, marks and digits (NFKC). A row is contaminated if it
shares with an item 13 words in a row or 50 characters in a row, spaces and punctuation left out; or if
one of its turns is an item as a whole, which is how items too short for either are found. Pieces that
many items have are boilerplate; these, and pieces that such ones cover for the most part, do not count,
so an item of little else is found as a whole only.

All pieces of all items are held as 64-bit rolling hashes, sorted, behind a bitmap that answers most
lookups from the cache; two different pieces have the same hash once in 2^64. Paraphrases, translations
and renamed numbers or names escape.
"""

import itertools
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from validators.quoting import quote
from validators.report import Finding, Rule
from validators.rows import Message

GRAM_WORDS = 13
WINDOW_CHARS = 50
BOILERPLATE_ITEMS = 3
"""A piece that so many items have is boilerplate."""

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]

_SEGMENT_CHARS = 2**16
_OVERLAP_CHARS = 2**11
"""Long texts are hashed in overlapping segments; 13 words that are longer than the overlap may be missed."""
_BASE = 0x9E3779B97F4A7C15
_WORD_BASE = 0xC2B2AE3D27D4EB4F
_MIX = np.uint64(0xD6E8FEB86659FD93)
_BITS_PER_PIECE = 32
_MIN_BITS, _MAX_BITS = 16, 32
_EDGE = ".,;:?!'\"`"


class EvaluationItem(NamedTuple):
    """What evaluation asks; `problem_key` is the identity of a skill's problem, None for prose."""

    id: str
    text: str
    problem_key: str | None = None


class _Pieces(NamedTuple):
    """Hashes of a text's pieces, and where in the text each begins."""

    hashes: Hashes
    starts: Positions


@dataclass(frozen=True)
class _PieceIndex:
    """Sorted hashes of pieces, the item of each, and a bitmap over their first bits."""

    hashes: Hashes
    owners: NDArray[np.int32]
    bitmap: NDArray[np.uint8]
    shift: np.uint64

    @classmethod
    def build(cls, segments: Sequence[tuple[int, Hashes]], size: int, boilerplate_items: int) -> "_PieceIndex":
        """Each segment is an item and its pieces of `size` units, in the order of the text."""
        boilerplate = _pieces_of_many(segments, boilerplate_items)
        own = [(item, hashes[~_mostly_covered(np.isin(hashes, boilerplate), size)]) for item, hashes in segments]
        owners = np.repeat(np.array([item for item, _ in own], np.int32), [len(hashes) for _, hashes in own])
        hashes, first = np.unique(_concatenated(own), return_index=True)
        owners = owners[first]
        bits = min(_MAX_BITS, max(_MIN_BITS, (len(hashes) * _BITS_PER_PIECE).bit_length()))
        shift = np.uint64(64 - bits)
        bitmap = np.zeros(2 ** (bits - 3), np.uint8)
        slots = hashes >> shift
        np.bitwise_or.at(bitmap, slots >> np.uint64(3), np.uint8(1) << (slots & np.uint64(7)).astype(np.uint8))
        return cls(hashes, owners, bitmap, shift)

    def find(self, pieces: _Pieces) -> tuple[int, int] | None:
        """The first piece that an item has: where it begins, and the item."""
        if not len(self.hashes) or not len(pieces.hashes):
            return None
        slots = pieces.hashes >> self.shift
        set_bits = (self.bitmap[slots >> np.uint64(3)] >> (slots & np.uint64(7)).astype(np.uint8)) & 1
        candidates = np.flatnonzero(set_bits)
        sought = pieces.hashes[candidates]
        places = np.minimum(np.searchsorted(self.hashes, sought), len(self.hashes) - 1)
        hits = np.flatnonzero(self.hashes[places] == sought)
        if not len(hits):
            return None
        return int(pieces.starts[candidates[hits[0]]]), int(self.owners[places[hits[0]]])


class EvaluationIndex:
    """Everything that evaluation asks, indexed. Build it with `EvaluationIndex.build`."""

    def __init__(
        self,
        ids: Sequence[str],
        grams: _PieceIndex,
        windows: _PieceIndex,
        whole: dict[str, str],
        problem_keys: dict[str, str],
    ) -> None:
        self._ids = ids
        self._grams = grams
        self._windows = windows
        self._whole = whole
        self._problem_keys = problem_keys

    @classmethod
    def build(cls, items: Iterable[EvaluationItem], boilerplate_items: int = BOILERPLATE_ITEMS) -> "EvaluationIndex":
        """Index items; of items with the same text the first one is named, and they count once as boilerplate.

        An item with a problem key is compared by its text too, with rows that have no key.
        """
        whole: dict[str, str] = {}
        problem_keys: dict[str, str] = {}
        ids: list[str] = []
        grams: list[tuple[int, Hashes]] = []
        windows: list[tuple[int, Hashes]] = []
        for item in items:
            if item.problem_key is not None:
                problem_keys.setdefault(item.problem_key, item.id)
            text = _normalise(item.text)
            key = _whole_key(text)
            if not key or key in whole:
                continue
            whole[key] = item.id
            ids.append(item.id)
            for segment_grams, segment_windows in _pieces(text):
                grams.append((len(ids) - 1, segment_grams.hashes))
                windows.append((len(ids) - 1, segment_windows.hashes))
        return cls(
            ids,
            _PieceIndex.build(grams, GRAM_WORDS, boilerplate_items),
            _PieceIndex.build(windows, WINDOW_CHARS, boilerplate_items),
            whole,
            problem_keys,
        )

    def find(self, messages: Sequence[Message], problem_key: str | None = None) -> Finding | None:
        """What the row shares with an item; a row with a problem key is decided by that key alone.

        Turns are read as one text, so that an item that holds question and answer is found too. Only
        turns that are asked, or the only turn, are compared as a whole.
        """
        if problem_key is not None:
            item = self._problem_keys.get(problem_key)
            return None if item is None else _finding("is the problem of", item, problem_key)
        if not self._ids:
            return None
        texts = [_normalise(message.content) for message in messages]
        for message, text in zip(messages, texts, strict=True):
            if message.role == "assistant" and len(messages) > 1:
                continue
            if item := self._whole.get(_whole_key(text)):
                return _finding(f"has a {message.role} turn that is", item, text)
        return self._find_pieces("\n".join(texts))

    def _find_pieces(self, text: str) -> Finding | None:
        for offset, (grams, windows) in zip(range(0, sys.maxsize, _step()), _pieces(text), strict=False):
            if hit := self._grams.find(grams):
                return _finding(f"shares {GRAM_WORDS} words with", self._ids[hit[1]], text[offset + hit[0] :])
            if hit := self._windows.find(windows):
                return _finding(f"shares {WINDOW_CHARS} characters with", self._ids[hit[1]], text[offset + hit[0] :])
        return None


def _concatenated(segments: Sequence[tuple[int, Hashes]]) -> Hashes:
    return np.concatenate([np.empty(0, np.uint64), *(hashes for _, hashes in segments)])


def _pieces_of_many(segments: Sequence[tuple[int, Hashes]], items: int) -> Hashes:
    """The pieces that so many items have, sorted."""
    by_item = itertools.groupby(segments, key=itemgetter(0))
    distinct = [(item, np.unique(_concatenated(list(own)))) for item, own in by_item]
    hashes, counts = np.unique(_concatenated(distinct), return_counts=True)
    return hashes[counts >= items]


def _mostly_covered(boilerplate: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """By piece, in their order: whether more than half of its units lie in pieces that are boilerplate.

    Else the end of a boilerplate sentence and the one letter that happens to follow would be a piece of one item.
    """
    if not boilerplate.any():
        return boilerplate
    units = len(boilerplate) + size - 1
    covering = np.cumsum(np.bincount(np.flatnonzero(boilerplate), minlength=units + size))
    covering[size:] -= covering[:-size].copy()
    covered = np.concatenate(([0], np.cumsum(covering[:units] > 0)))
    return covered[size:] - covered[:-size] > size // 2


def _finding(what: str, item: str, seen: str) -> Finding:
    return Finding(Rule.CONTAMINATION, f"the row {what} evaluation item {quote(item)}: {quote(seen)}")


def _normalise(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()


def _whole_key(text: str) -> str:
    return "".join(text.split()).strip(_EDGE)


def _step() -> int:
    return _SEGMENT_CHARS - _OVERLAP_CHARS


def _pieces(text: str) -> Iterator[tuple[_Pieces, _Pieces]]:
    """The 13-grams and the 50-character windows of each segment; a text has at least one segment."""
    for start in range(0, max(1, len(text) - _OVERLAP_CHARS), _step()):
        yield _hash_segment(text[start : start + _SEGMENT_CHARS])


def _hash_segment(text: str) -> tuple[_Pieces, _Pieces]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    places = np.flatnonzero(_word_characters()[codes])
    power, inverse = _powers(_BASE)
    sums = _prefix_sums(codes[places].astype(np.uint64), power)
    windows = _window_hashes(sums, WINDOW_CHARS, inverse)
    begins = np.empty(len(places), bool)
    begins[:1] = True
    np.not_equal(places[1:], places[:-1] + 1, out=begins[1:])
    first = np.flatnonzero(begins)
    bounds = np.append(first, len(places))
    words = (sums[bounds[1:]] - sums[bounds[:-1]]) * inverse[first]
    words = (words ^ (words >> np.uint64(32))) * _MIX
    power, inverse = _powers(_WORD_BASE)
    sums = _prefix_sums(words ^ (words >> np.uint64(29)), power)
    grams = _window_hashes(sums, GRAM_WORDS, inverse)
    return _Pieces(grams, places[first]), _Pieces(windows, places)


def _prefix_sums(values: Hashes, power: Hashes) -> Hashes:
    """Sums modulo 2^64 of the values before each place, each times the power of its place."""
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * power[: len(values)], out=sums[1:])
    return sums


def _window_hashes(sums: Hashes, size: int, inverse: Hashes) -> Hashes:
    """The hash of each `size` values in a row, wherever they stand."""
    return (sums[size:] - sums[:-size]) * inverse[: max(0, len(sums) - size)]


@cache
def _powers(base: int) -> tuple[Hashes, Hashes]:
    """The powers of an odd base and of its inverse, modulo 2^64."""
    factors = np.full((2, _SEGMENT_CHARS + 1), np.uint64(base))
    factors[1] = pow(base, -1, 2**64)
    factors[:, 0] = 1
    powers = np.cumprod(factors, axis=1, dtype=np.uint64)
    return powers[0], powers[1]


@cache
def _word_characters() -> NDArray[np.bool_]:
    """By code point: whether it is part of a word. Marks are, or the words of many scripts would be cut."""
    flags = (chr(code).isalnum() or unicodedata.category(chr(code))[0] == "M" for code in range(sys.maxunicode + 1))
    return np.fromiter(flags, bool, sys.maxunicode + 1)
