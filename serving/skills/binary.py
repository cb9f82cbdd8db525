"""The binary skill: addition and subtraction written in circled digits, with shown work.

A problem is an operation and two operands. Which side of the train and evaluation split it
lies on is decided by a hash of the problem itself, so no file, seed or count can ever move it.
Pure: no files, no clock, no HTTP; randomness comes in as a `random.Random`.

An answer restates the operands aligned and least significant digit first, one column a digit
(left, right, result), and then the result: a one-million-parameter model learns the columns,
where it does not learn to jump to the result.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

SKILL_ID = "binary"
GENERATOR_ID = "binary_api"
GENERATOR_VERSION = "1.0.0"
HELD_OUT_SHARE = 0.2
DIGITS = "⓪①"

Operation = Literal["add", "subtract"]
OPERATIONS: tuple[Operation, ...] = ("add", "subtract")
LEVELS: dict[int, int] = {1: 10, 2: 20}
"""Level to largest operand; the smallest is 1."""

PHRASINGS: dict[Operation, tuple[str, ...]] = {
    "add": ("{left} + {right} = ?", "add {left} {right}", "what is {left} + {right}"),
    "subtract": ("{left} - {right} = ?", "subtract {left} {right}", "what is {left} - {right}"),
}
_NUMBER = rf"([{DIGITS}]+)"
_QUESTIONS: tuple[tuple[Operation, re.Pattern[str]], ...] = tuple(
    (operation, re.compile(re.escape(phrasing).replace(r"\{left\}", _NUMBER).replace(r"\{right\}", _NUMBER)))
    for operation, phrasings in PHRASINGS.items()
    for phrasing in phrasings
)
_FINAL = re.compile(rf"=\s*([{DIGITS}]+)\s*$")


@dataclass(frozen=True, order=True)
class Problem:
    """One question of the skill; its key is its identity in data, evaluation and lineage."""

    operation: Operation
    left: int
    right: int

    @property
    def key(self) -> str:
        return f"{SKILL_ID}:{self.operation}:{self.left}:{self.right}"

    @property
    def level(self) -> int:
        """The lowest level whose operands reach this problem's."""
        largest = max(self.left, self.right)
        return min(level for level, limit in LEVELS.items() if largest <= limit)

    @property
    def result(self) -> int:
        return self.left + self.right if self.operation == "add" else self.left - self.right

    @property
    def held_out(self) -> bool:
        return is_held_out(self.key)


def is_held_out(problem_key: str) -> bool:
    """Whether a problem is reserved for evaluation: a pure function of its key.

    Keys of other skills are not this one's to reserve.
    """
    if not problem_key.startswith(f"{SKILL_ID}:"):
        return False
    digest = hashlib.sha256(problem_key.encode()).digest()
    return int.from_bytes(digest[:8]) < HELD_OUT_SHARE * 2**64


def problems(level: int) -> Iterator[Problem]:
    """All problems of a level, the lower levels' included, in a fixed order.

    Subtractions never go below zero.

    Raises:
        ValueError: if the level is unknown.
    """
    if level not in LEVELS:
        raise ValueError(f"binary level {level} is unknown; known levels: {sorted(LEVELS)}")
    operands = range(1, LEVELS[level] + 1)
    for operation in OPERATIONS:
        for left in operands:
            for right in operands:
                if operation == "add" or left >= right:
                    yield Problem(operation, left, right)


def to_digits(value: int) -> str:
    """A non-negative integer in circled binary, most significant digit first."""
    return "".join(DIGITS[int(bit)] for bit in f"{value:b}")


def question(problem: Problem, phrasing: int = 0) -> str:
    """The user turn; phrasing 0 is the one that evaluation asks."""
    template = PHRASINGS[problem.operation][phrasing]
    return template.format(left=to_digits(problem.left), right=to_digits(problem.right))


def worked_answer(problem: Problem) -> str:
    """The assistant turn: three digits a column, least significant column first, then `= result`."""
    width = max(value.bit_length() for value in (problem.left, problem.right, problem.result, 1))
    columns = "".join(
        DIGITS[(value >> place) & 1]
        for place in range(width)
        for value in (problem.left, problem.right, problem.result)
    )
    return f"{columns} = {to_digits(problem.result)}"


def parse_final(answer: str) -> str | None:
    """The digits after the last `=` at the end of an answer, or None if there are none."""
    match = _FINAL.search(answer)
    return match.group(1) if match else None


def find_problems(text: str) -> Iterator[Problem]:
    """Every problem that a text asks in one of the phrasings, wherever in the text."""
    for operation, pattern in _QUESTIONS:
        for match in pattern.finditer(text):
            left, right = (int("".join(str(DIGITS.index(digit)) for digit in side), 2) for side in match.groups())
            yield Problem(operation, left, right)


def asks_held_out(text: str) -> bool:
    """Whether a text asks a reserved problem, whatever its metadata says."""
    return any(problem.held_out for problem in find_problems(text))


def is_correct(problem: Problem, answer: str) -> bool:
    """Exact match on the final result."""
    return parse_final(answer) == to_digits(problem.result)


def training_row(problem: Problem, phrasing: int, level: int) -> dict[str, object]:
    """One `chat_sft_v1` row, with the metadata that lineage and contamination checks read.

    Raises:
        ValueError: if the problem is reserved for evaluation.
    """
    if problem.held_out:
        raise ValueError(f"{problem.key} is reserved for evaluation and is never emitted for training")
    return {
        "messages": [
            {"role": "user", "content": question(problem, phrasing)},
            {"role": "assistant", "content": worked_answer(problem)},
        ],
        "metadata": {
            "skill": SKILL_ID,
            "level": level,
            "problem_key": problem.key,
            "generator_id": GENERATOR_ID,
            "generator_version": GENERATOR_VERSION,
        },
    }


def training_rows(level: int, count: int, rng: random.Random) -> Iterator[dict[str, object]]:
    """`count` rows of a level: every trainable problem once before any comes again."""
    pool = [problem for problem in problems(level) if not problem.held_out]
    deck: list[Problem] = []
    for _ in range(count):
        if not deck:
            deck = rng.sample(pool, len(pool))
        problem = deck.pop()
        yield training_row(problem, rng.randrange(len(PHRASINGS[problem.operation])), level)
