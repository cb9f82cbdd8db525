"""Rows that repeat: the same row, nearly the same row, and the same prompt answered otherwise.

Compares a file's rows, batch by batch and in their order, with the rows before them and with
everything ever accepted. Rows of one meaning in other words are not found. Text is compared after
NFKC, casefold and with white space collapsed; what is nearly the same is decided by shingles of
token ids, inside the file exactly, against the history by the estimate of signatures.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from validators.history import BUCKET_LIMIT, NO_PROMPT, Entries, RowHistory
from validators.report import Finding, Rule
from validators.rows import Message
from validators.shingles import (
    BANDS,
    NUM_PERMUTATIONS,
    Ids,
    ShingleSet,
    Signatures,
    band_keys,
    estimate_similarity,
    expand,
    hash_shingles,
    jaccard,
    shingle_sets,
    sign,
)

ESTIMATE_MARGIN = 0.06
"""Two standard errors: so much lower is the bar against the history, where signatures decide."""
_CERTAIN_MARGIN = 0.13
_VERIFIED_PER_ROW = 8
_PAIRS_AT_ONCE = 4096
_TURN_END = "\0"


class HashableRow(NamedTuple):
    """A row as duplicates are looked for; `prompt` is "" where there is none, as in completions.

    `token_ids` are of what the row itself says. A long text that all rows share, such as a system
    prompt, makes them all nearly the same.
    """

    line: int
    prompt: str
    answer: str
    token_ids: Ids


class _Near(NamedTuple):
    """The most similar earlier row of the file."""

    row: int
    similarity: float


def split_conversation(messages: Sequence[Message]) -> tuple[str, str]:
    """Prompt and answer: all turns before the last assistant turn with their roles, and that turn.

    A conversation of several turns thus conflicts only with one that is the same up to its last answer.
    """
    last = max((place for place, message in enumerate(messages) if message.role == "assistant"), default=0)
    prompt = _TURN_END.join(f"{message.role}{_TURN_END}{message.content.strip()}" for message in messages[:last])
    return prompt, messages[last].content


def text_entries(rows: Iterable[tuple[int, Sequence[Message]]]) -> Entries:
    """What `RowHistory.replace` takes for lines and their conversations where no tokens were looked at: no signatures.

    Signing needs the token ids, and tokenizing takes several times as long as all of level QUICK.
    """
    hashes = [(line, *map(_text_hash, split_conversation(messages))) for line, messages in rows]
    lines, prompts, answers = np.array(hashes, np.int64).reshape(-1, 3).T
    return Entries(lines, prompts, answers, np.zeros((len(hashes), 0), np.uint8))


def normalise(text: str) -> str:
    """NFKC, casefold, runs of white space to one space, none at the ends."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split())


class DuplicateFinder:
    """Findings on one file's rows; memory grows by about 1.9 kB a row of 250 tokens.

    `own_key` is the file's dataset, whose accepted rows are not looked at; `similarity` is the
    Jaccard similarity from which rows are nearly the same. The first of equal rows is clean.
    """

    def __init__(self, history: RowHistory, own_key: str, similarity: float = 0.8) -> None:
        self._history = history
        self._own_key = own_key
        self._similarity = similarity
        self._has_history = bool(set(history.datasets()) - {own_key})
        self._batches: list[Entries] = []
        self._texts = _SeenTexts()
        self._nearest = _SeenShingles(similarity)

    def check(self, batch: Sequence[HashableRow]) -> list[list[Finding]]:
        """The findings on each row of the next batch; batches of a few thousand rows are fastest."""
        if not batch:
            return []
        shingles = hash_shingles([row.token_ids for row in batch])
        entries = _entries(batch, sign(shingles))
        self._batches.append(entries)
        exact, conflicts = self._texts.add(entries)
        near = self._nearest.add(entries.lines, entries.signatures, shingle_sets(shingles), set(exact))
        findings: list[dict[Rule, str]] = [{} for _ in batch]
        for index, line in exact.items():
            findings[index][Rule.EXACT_DUPLICATE] = f"the same as line {line}"
        for index, line in conflicts.items():
            findings[index][Rule.CONFLICTING_ANSWER] = f"line {line} answers the same prompt otherwise"
        for index, (line, similarity) in near.items():
            findings[index][Rule.NEAR_DUPLICATE] = f"nearly the same as line {line}, similarity {similarity:.2f}"
        if self._has_history:
            self._compare_with_history(entries, findings)
        return [[Finding(rule, found[rule]) for rule in _ORDER if rule in found] for found in findings]

    def entries(self, accepted_lines: Sequence[int] | NDArray[np.int64]) -> Entries:
        """What `RowHistory.replace` takes for these of the rows seen."""
        if not self._batches:
            return _entries([], np.zeros((0, NUM_PERMUTATIONS), np.uint8))
        columns = zip(*((one.lines, one.prompts, one.answers, one.signatures) for one in self._batches), strict=True)
        lines, prompts, answers, signatures = (np.concatenate(column) for column in columns)
        return Entries(lines, prompts, answers, signatures).take(np.isin(lines, accepted_lines))

    def _compare_with_history(self, entries: Entries, findings: list[dict[Rule, str]]) -> None:
        """Add what only the history knows; where it has the very row, that is the first occurrence."""
        for index, place in self._history.exact_duplicates(entries, excluding=self._own_key).items():
            findings[index] = {Rule.EXACT_DUPLICATE: f"the same as {place}"} | {
                rule: detail for rule, detail in findings[index].items() if rule is Rule.CONFLICTING_ANSWER
            }
        for index, place in self._history.conflicting_answers(entries, excluding=self._own_key).items():
            findings[index].setdefault(Rule.CONFLICTING_ANSWER, f"{place} answers the same prompt otherwise")
        similar = (Rule.EXACT_DUPLICATE, Rule.NEAR_DUPLICATE)
        rest = np.array([place for place, found in enumerate(findings) if not found.keys() & set(similar)], np.int64)
        least = self._similarity - ESTIMATE_MARGIN
        near = self._history.near_duplicates(entries.take(rest), least=least, excluding=self._own_key)
        for index, (place, similarity) in near.items():
            detail = f"nearly the same as {place}, similarity about {similarity:.2f}"
            findings[int(rest[index])][Rule.NEAR_DUPLICATE] = detail


class _SeenTexts:
    """Prompts and answers of the file so far; of each prompt the first answer and the first other one."""

    def __init__(self) -> None:
        self._line_of_row: dict[int, int] = {}
        self._first: dict[int, tuple[int, int]] = {}
        self._other: dict[int, int] = {}

    def add(self, entries: Entries) -> tuple[dict[int, int], dict[int, int]]:
        """Lines of the first same row, and of a conflicting one, by index."""
        exact: dict[int, int] = {}
        conflicts: dict[int, int] = {}
        columns = (entries.lines, entries.prompts, entries.answers)
        for index, (line, prompt, answer) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            first = self._line_of_row.setdefault(_pair_key(prompt, answer), line)
            if first != line:
                exact[index] = first
            if prompt != NO_PROMPT and (conflict := self._conflict(line, prompt, answer)) is not None:
                conflicts[index] = conflict
        return exact, conflicts

    def _conflict(self, line: int, prompt: int, answer: int) -> int | None:
        first_line, first_answer = self._first.setdefault(prompt, (line, answer))
        if answer != first_answer:
            self._other.setdefault(prompt, line)
            return first_line
        other = self._other.get(prompt)
        return other if first_line != line else None


class _SeenShingles:
    """Shingles of the file so far, except of exact duplicates."""

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._lines: list[int] = []
        self._sets: list[ShingleSet] = []
        self._signatures = _GrowingRows()
        self._bands = _BandIndex()

    def add(
        self, lines: NDArray[np.int64], signatures: Signatures, sets: Sequence[ShingleSet], skipped: set[int]
    ) -> dict[int, tuple[int, float]]:
        """The line of the most similar earlier row and the similarity, by index in the batch."""
        kept = np.array([index for index in range(len(lines)) if index not in skipped], np.int64)
        base = len(self._sets)
        self._lines.extend(lines[kept].tolist())
        self._sets.extend(sets[index] for index in kept.tolist())
        self._signatures.extend(signatures[kept])
        keys = band_keys(signatures[kept])
        self._bands.add(keys, base)
        owners, others = self._bands.meetings(keys)
        earlier = others < owners + base
        found = self._verified(owners[earlier] + base, others[earlier])
        return {int(kept[row - base]): (self._lines[near.row], near.similarity) for row, near in found.items()}

    def _verified(self, rows: NDArray[np.int64], others: NDArray[np.int64]) -> dict[int, _Near]:
        """Of each row the most similar other, the earlier of two equal ones, if it is similar enough."""
        best: dict[int, _Near] = {}
        for row, other, similarity in self._similarities(*self._likeliest(rows, others)):
            known = best.get(row)
            if similarity >= self._similarity and (
                known is None or (-similarity, other) < (-known.similarity, known.row)
            ):
                best[row] = _Near(other, similarity)
        return best

    def _likeliest(
        self, rows: NDArray[np.int64], others: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pairs worth an exact look: by the signatures near enough, and of each row the 8 nearest."""
        signatures = self._signatures.rows
        estimates = estimate_similarity(signatures, rows, signatures, others)
        likely = estimates >= self._similarity - _CERTAIN_MARGIN
        pairs, firsts = np.unique(rows[likely] << 32 | others[likely], return_index=True)
        rows, others, estimates = pairs >> 32, pairs & 0xFFFFFFFF, estimates[likely][firsts]
        order = np.lexsort((others, -estimates, rows))
        rows, others = rows[order], others[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        return rows[rank < _VERIFIED_PER_ROW], others[rank < _VERIFIED_PER_ROW]

    def _similarities(self, rows: NDArray[np.int64], others: NDArray[np.int64]) -> Iterator[tuple[int, int, float]]:
        for begin in range(0, len(rows), _PAIRS_AT_ONCE):
            left = rows[begin : begin + _PAIRS_AT_ONCE].tolist()
            right = others[begin : begin + _PAIRS_AT_ONCE].tolist()
            similarity = jaccard([self._sets[row] for row in left], [self._sets[row] for row in right])
            yield from zip(left, right, similarity.tolist(), strict=True)


class _GrowingRows:
    """Signatures in one array that doubles when it is full."""

    def __init__(self) -> None:
        self._data = np.zeros((1024, NUM_PERMUTATIONS), np.uint8)
        self._size = 0

    @property
    def rows(self) -> Signatures:
        return self._data[: self._size]

    def extend(self, rows: Signatures) -> None:
        size = self._size + len(rows)
        if size > len(self._data):
            grown = np.zeros((max(size, 2 * len(self._data)), NUM_PERMUTATIONS), np.uint8)
            grown[: self._size] = self.rows
            self._data = grown
        self._data[self._size : size] = rows
        self._size = size


class _BandIndex:
    """Rows by band key, as a few sorted runs, each more than twice as long as the next."""

    def __init__(self) -> None:
        self._runs: list[tuple[NDArray[np.int64], NDArray[np.uint32]]] = []

    def add(self, keys: NDArray[np.int64], base: int) -> None:
        """Rows `base`, `base + 1` and so on, with their keys."""
        flat = keys.ravel()
        order = np.argsort(flat, kind="stable")
        run = (flat[order], (order // BANDS + base).astype(np.uint32))
        while self._runs and len(self._runs[-1][0]) <= 2 * len(run[0]):
            older = self._runs.pop()
            merged = np.concatenate((older[0], run[0]))
            order = np.argsort(merged, kind="stable")
            run = (merged[order], np.concatenate((older[1], run[1]))[order])
        self._runs.append(run)

    def meetings(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of a row of `keys` and a row of the index under the same key; a pair may come twice.

        Under each key only the first 64 rows are looked at.
        """
        flat = keys.ravel()
        order = np.argsort(flat, kind="stable")
        flat, owner = flat[order], order // BANDS
        left = np.full(len(flat), BUCKET_LIMIT)
        owners, others = [], []
        for run_keys, run_rows in self._runs:
            starts = np.searchsorted(run_keys, flat)
            counts = np.minimum(np.searchsorted(run_keys, flat, side="right") - starts, left)
            left -= counts
            ranges, positions = expand(starts, counts)
            owners.append(owner[ranges])
            others.append(run_rows[positions].astype(np.int64))
        return np.concatenate(owners), np.concatenate(others)


_ORDER = (Rule.EXACT_DUPLICATE, Rule.NEAR_DUPLICATE, Rule.CONFLICTING_ANSWER)


def _entries(batch: Sequence[HashableRow], signatures: Signatures) -> Entries:
    lines = np.fromiter((row.line for row in batch), np.int64, len(batch))
    prompts = np.fromiter((_text_hash(row.prompt) for row in batch), np.int64, len(batch))
    answers = np.fromiter((_text_hash(row.answer) for row in batch), np.int64, len(batch))
    return Entries(lines, prompts, answers, signatures)


def _text_hash(text: str) -> int:
    """64 bits of BLAKE2b as a signed integer; of the empty text `NO_PROMPT`."""
    normalised = normalise(text)
    if not normalised:
        return NO_PROMPT
    digest = blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _pair_key(prompt: int, answer: int) -> int:
    """Both hashes as one number; a tuple would take twice the memory."""
    return (prompt << 64) ^ answer
