"""Defects of whole files, each beside the nearest file that has none.

A case is a rule, a file that breaks it, a file that does not, and the length histogram of what the
generator made before.
"""

import codecs
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.rows import Row, make_row, prose, sentence
from tests.validators.defects import chat, line_of
from validators import Rule

ROWS = 200
LONG = 5000
"""Characters that are over 2,048 tokens."""


class FileCase(NamedTuple):
    """`what` names the case; of `past` None is a generator that made nothing before."""

    rule: Rule
    what: str
    broken: Sequence[bytes]
    whole: Sequence[bytes]
    past: Sequence[int] | None = None


def file_cases(seed: int = 1) -> Iterator[FileCase]:
    """All cases; every one is of 200 rows or fewer."""
    generator = random.Random(seed)
    clean = [line_of(make_row(generator, 300)) for _ in range(ROWS)]
    latin = line_of(chat("<>", sentence(generator))).replace(b"<>", b"caf\xe9")
    yield FileCase(Rule.NOT_TEXT, "lines that are not UTF-8", [latin] * 101 + clean[:99], [latin] * 100 + clean[:100])
    yield FileCase(Rule.NOT_TEXT, "the first bytes of Parquet", [b"PAR1", *clean], [b"Par1", *clean])
    yield FileCase(Rule.EMPTY_FILE, "no rows", [b"", b" \t"], clean[:1])
    yield FileCase(Rule.BYTE_ORDER_MARK, "at the beginning", [codecs.BOM_UTF8 + clean[0]], clean[:1])
    yield FileCase(Rule.BLANK_LINE, "between two rows", [clean[0], b" ", clean[1]], clean[:2])
    yield FileCase(Rule.UNKNOWN_COLUMN, "misspelt", [clean[0][:-1] + b', "metdata": {}}'], clean[:1])
    yield FileCase(Rule.TOO_MANY_REJECTED, "share", [b"{}"] * 21 + clean[:179], [b"{}"] * 20 + clean[:180])
    yield FileCase(Rule.TOO_MANY_REJECTED, "all", [b"{}"], [b"{}", *clean[:9]])
    yield FileCase(Rule.ANSWER_BALANCE, "one answer", *_shares(generator, _same_answer, 101, 100))
    yield FileCase(Rule.ANSWER_DIVERSITY, "of a skill", *_shares(generator, _syllo_answer, 42, 41))
    yield FileCase(Rule.LENGTH_BOUNDS, "of a skill", *_shares(generator, _syllo_length, 21, 20))
    yield FileCase(Rule.PROTOCOL_MIX, "share", *_shares(generator, _thinking, 60, 59))
    yield FileCase(Rule.PROTOCOL_MIX, "share of nearly all", *_shares(generator, _thinking, 140, 141))
    past = [0] * 18 + [900, 100] + [0] * 20
    yield FileCase(Rule.DRIFT, "lengths", _of_lengths(generator, 400), _of_lengths(generator, 820), past)


def _shares(
    generator: random.Random, make: Callable[[random.Random, bool], Row], broken: int, whole: int
) -> tuple[list[bytes], list[bytes]]:
    """Two files of 200 rows with so many that are of the kind."""
    files = [[line_of(make(generator, place < count)) for place in range(ROWS)] for count in (broken, whole)]
    return files[0], files[1]


def _same_answer(generator: random.Random, same: bool) -> Row:
    return chat(prose(generator, 150), "yes" if same else sentence(generator))


def _syllo_answer(generator: random.Random, same: bool) -> Row:
    return chat(prose(generator, 150), "yes" if same else sentence(generator), metadata={"skill": "syllo"})


def _syllo_length(generator: random.Random, long: bool) -> Row:
    return chat(prose(generator, 200), prose(generator, LONG if long else 100), metadata={"skill": "syllo"})


def _thinking(generator: random.Random, thinks: bool) -> Row:
    answer = prose(generator, 100)
    return chat(prose(generator, 150), f"🤔🤔\n{answer}\n🛑🛑" if thinks else answer)


def _of_lengths(generator: random.Random, characters: int) -> list[bytes]:
    return [line_of(chat(prose(generator, characters // 2), prose(generator, characters // 2))) for _ in range(ROWS)]
