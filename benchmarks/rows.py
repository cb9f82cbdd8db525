"""Chat rows as people have them, made from a seed: prose in eight scripts, sums, code, JSON, lists and tables.

The words are made up, so no two rows are alike, and no row breaks a rule of the content gate.
"""

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Script = tuple[str, str, str, str]
"""First and second letters of syllables, what stands between two words, what ends a sentence."""

WORDS = 3_000
SCRIPTS: dict[str, Script] = {
    "latin": (
        "b c d f g h j k l m n p r s t v w br ch cl dr fl gr pl sh st th tr",
        "a e i o u ai ea ou an en or",
        " ",
        ".",
    ),
    "accented": ("b d f g l m n p r s t v z č š ž ł ř ñ ç", "a e i o u é ü ö å ø ę ă", " ", "."),
    "cyrillic": ("б в г д ж з к л м н п р с т ф х ц ч ш щ", "а е ё и о у ы э ю я", " ", "."),
    "greek": ("β γ δ ζ θ κ λ μ ν ξ π ρ σ τ φ χ ψ", "α ε η ι ο υ ω ά έ ή ό", " ", "."),
    "arabic": ("ا ب ت ث ج ح خ د ذ ر ز س ش ص ض ط ع غ", "ا و ي ف ق ك ل م ن ه", " ", "."),
    "devanagari": ("क ख ग घ च ज ट ड त थ द ध न प ब भ म य र ल व श स ह", "ा ि ी ु ू े ै ो ौ", " ", "।"),
    "hangul": (" ".join(map(chr, range(0xAC00, 0xB400, 37))), " ".join(map(chr, range(0xB401, 0xC000, 41))), " ", "."),
    "han": (" ".join(map(chr, range(0x4E00, 0x5E00, 5))), " ".join(map(chr, range(0x5E01, 0x6E00, 7))), "", "。"),
}
_GLUE = (
    "the",
    "of",
    "a",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "with",
    "as",
    "on",
    "by",
    "it",
    "at",
    "be",
    "not",
    "how",
)
_ASK = (
    "How does {} work?",
    "Explain {} to a beginner.",
    "What should I know about {}?",
    "Write a short note on {}.",
    "Why is {} so slow?",
)
_SYSTEM = ("You are a helpful assistant.", "Answer briefly.", "You are a patient teacher of {}.")


@cache
def vocabulary(script: str) -> tuple[str, ...]:
    """Made-up words; the same ones always."""
    generator = random.Random(script)
    letters = [SCRIPTS[script][0].split(), SCRIPTS[script][1].split()]
    words = {
        "".join(generator.choice(letters[place % 2]) for place in range(generator.randint(2, 6))) for _ in range(WORDS)
    }
    return tuple(sorted(words))


def sentence(generator: random.Random, script: str = "latin", words: int = 0) -> str:
    """A sentence of that many words, or of 6 to 16."""
    count = words or generator.randint(6, 16)
    picked = generator.choices(vocabulary(script), k=count)
    if script == "latin":
        picked = [generator.choice(_GLUE) if generator.random() < 0.4 else word for word in picked]
    _, _, gap, stop = SCRIPTS[script]
    text = gap.join(picked)
    return text[0].upper() + text[1:] + stop


def prose(generator: random.Random, characters: int, script: str = "latin") -> str:
    """Paragraphs of sentences, at least that long."""
    parts: list[str] = []
    length = 0
    while length < characters:
        parts.append(sentence(generator, script))
        parts.append("\n\n" if generator.random() < 0.2 else " ")
        length += len(parts[-2]) + 1
    return "".join(parts).strip()


def topic(generator: random.Random) -> str:
    return " ".join(generator.choices(vocabulary("latin"), k=generator.randint(2, 5)))


def ask(generator: random.Random) -> str:
    return generator.choice(_ASK).format(topic(generator))


def _prose_row(generator: random.Random, size: int) -> list[str]:
    script = generator.choice(("latin", "latin", "latin", *SCRIPTS))
    asked = size // 5
    question = ask(generator) if script == "latin" else sentence(generator, script)
    return [f"{question}\n{prose(generator, asked, script)}", prose(generator, size - asked, script)]


def _sum_row(generator: random.Random, size: int) -> list[str]:
    left, right = generator.randint(0, 999), generator.randint(0, 999)
    who, what = generator.choices(vocabulary("latin"), k=2)
    story = sentence(generator, words=max(6, min(40, size // 12)))
    question = f"{story} {who.title()} has {left} {what}s and gives {right} away. How many are left? Give the number."
    return [question, str(left - right)]


def _code_row(generator: random.Random, size: int) -> list[str]:
    name, one, two, three = ("_".join(generator.choices(vocabulary("latin"), k=2)) for _ in range(4))
    code = (
        f"def {name}({one}, {two}=None):\n"
        f'    """{sentence(generator)}"""\n'
        f"    if {two} is None:\n"
        f"        {two} = [{generator.randint(1, 99)}, {generator.randint(100, 999)}]\n"
        f"    {three} = {{\"{one}\": {one}, '{two}': len({two})}}\n"
        f"    return {three}\n"
    )
    said = prose(generator, size - len(code) - 150)
    return [f"Write a function {name}. {sentence(generator)}", f"{said}\n\n```python\n{code}```"]


def _json_row(generator: random.Random, size: int) -> list[str]:
    fields = {word: sentence(generator) for word in generator.choices(vocabulary("latin"), k=3)}
    answer = json.dumps({**fields, "score": generator.randint(1, 9)}, indent=generator.choice((None, 2)))
    return [f"As JSON, please: {ask(generator)} {prose(generator, size - len(answer))}", answer]


def _list_row(generator: random.Random, size: int) -> list[str]:
    items = [f"{number}. **{topic(generator)}**: {sentence(generator)}" for number in range(1, max(3, size // 130))]
    return [ask(generator), "\n".join(items)]


def _table_row(generator: random.Random, size: int) -> list[str]:
    lines = [f"| {topic(generator)} | {generator.randint(0, 9999)} | 10.0.{number}.1 |" for number in range(size // 60)]
    return [f"A table of {topic(generator)}.", "\n".join(["| name | n | host |", "|---|---|---|", *lines])]


def _talk_row(generator: random.Random, size: int) -> list[str]:
    turns = 2 * generator.randint(2, 4)
    return [prose(generator, size // turns) for _ in range(turns)]


_SHAPES: tuple[tuple[Callable[[random.Random, int], list[str]], int], ...] = (
    (_prose_row, 10),
    (_sum_row, 2),
    (_code_row, 3),
    (_json_row, 2),
    (_list_row, 2),
    (_table_row, 1),
    (_talk_row, 4),
)


def make_row(generator: random.Random, size: int = 700) -> Row:
    """A row of about `size` characters of content; one in four has a system turn, two in three metadata."""
    (shape,) = generator.choices([shape for shape, _ in _SHAPES], [weight for _, weight in _SHAPES])
    messages = [
        {"role": ("user", "assistant")[index % 2], "content": content}
        for index, content in enumerate(shape(generator, int(size * generator.uniform(0.6, 1.4))))
    ]
    if generator.random() < 0.25:
        messages.insert(0, {"role": "system", "content": generator.choice(_SYSTEM).format(topic(generator))})
    row: Row = {"messages": messages}
    if generator.random() < 0.67:
        row["metadata"] = {"id": generator.randint(0, 10**9), "source": topic(generator), "score": generator.random()}
    return row


def make_rows(seed: int, size: int = 700) -> Iterator[Row]:
    """Rows without end."""
    generator = random.Random(seed)
    while True:
        yield make_row(generator, size)


def write_rows(path: Path, rows: int, seed: int = 1, size: int = 700) -> None:
    """A JSONL file; every tenth line is written with escapes for what is not ASCII."""
    source = make_rows(seed, size)
    with path.open("w", encoding="utf-8") as file:
        for index in range(rows):
            file.write(json.dumps(next(source), ensure_ascii=index % 10 == 0) + "\n")
