"""Rules REPETITION, DEGENERATE and MOJIBAKE: text that no one wrote on purpose.

Digits of any script are never called repeated or empty, so arithmetic of any length passes: `4`, `-7`,
circled digits, `0.3333333333`. Fenced code is left out of repeated sentences and words, and so are lines of
hexadecimal bytes. What repeats itself as the turn before asked passes.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import eq, itemgetter

import numpy as np
from ftfy.badness import BADNESS_RE, MOJIBAKE_CATEGORIES
from numpy.typing import NDArray

from validators.quoting import quote
from validators.report import Finding, Rule
from validators.rows import Message

WORD_REPEATS = 5
UNSPACED_CHARS = 20
"""In scripts without spaces, the most characters that are looked for as one that repeats,"""
UNSPACED_RUN_CHARS = 15
"""and the fewest of a run."""
SENTENCE_CHARS = 10
NGRAM_WORDS = 4
NGRAM_SHARE = 0.25
NGRAM_TEXT_WORDS = 40
LETTER_SHARE = 0.4
LETTER_TEXT_CHARS = 50
CHARACTER_REPEATS = 10

_WORD_RUN = re.compile(rf"\b([^\W\d_]\w++)(?:\W++\1\b){{{WORD_REPEATS - 1}}}", re.IGNORECASE)
_UNSPACED = r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
_UNSPACED_RUN = re.compile(rf"({_UNSPACED}{{2,{UNSPACED_CHARS}}}?)\1{{{WORD_REPEATS - 1},}}")
_SENTENCE_END = re.compile(r"[.!?。！？\n]+\s*")
_REPEATED = re.compile(rf"([^\W\d_]|[!?,;\ufffd\U0001f300-\U0001faff])\1{{{CHARACTER_REPEATS - 1}}}")
_HEX_LINE = re.compile(
    r"^[ \t]*(?=[0-9a-fA-Fx: \t]*[0-9])(?:(?:0x)?[0-9a-fA-F]{2,16}:?(?:[ \t]+|$)){4,}(?:\|?.{1,17}\|?)?$", re.MULTILINE
)
"""Bytes with their address before them, or a number among them, and the same as text behind them."""
_ASKS_TO_REPEAT = re.compile(
    r"(?<!not )(?<!n't )(?<!never )\brepeat(?! yourself)|\b(?:say|write|print|type|output|give|show|chant|sing)\b"
    r"[^.?!\n]{0,60}\b(?:times|again and again|over and over)\b|wiederhol|\bmal\b|r[ée]p[eéè]t|\bfois\b|\brepit"
    r"|\bveces\b|\bripet|\bvolte\b|\bvezes\b|повтор|重复|重複|繰り返|반복",
    re.IGNORECASE,
)
_BLOCK = CHARACTER_REPEATS // 2
"""A run of ten holds five equal characters at a place that is a multiple of five."""
_MARKS = frozenset(".,;:?!-_*~#'\"`…–—\ufffd")
_MIN_MARKS = 3
_PLACEHOLDERS = "xX"
"""Letters that stand for others: `sk-xxxx`, `XXXX-XXXX`."""
_CARRIERS = "".join(chars for name, chars in MOJIBAKE_CATEGORIES.items() if not name.endswith(("common", "kaomoji")))
_MAY_BE_MOJIBAKE = re.compile(f"[{_CARRIERS}ŒœÂÃÎÐЂ√]")
"""Characters of which each of the heuristic's patterns holds one: a cheap look before it."""


@dataclass(frozen=True)
class RepetitionLimits:
    """`ngram_share` is the share of a text's words that one 4-gram may cover; `letter_share` of its letters."""

    sentence_chars: int = SENTENCE_CHARS
    ngram_share: float = NGRAM_SHARE
    ngram_text_words: int = NGRAM_TEXT_WORDS
    letter_share: float = LETTER_SHARE
    letter_text_chars: int = LETTER_TEXT_CHARS


def find_repetition(messages: Sequence[Message], limits: RepetitionLimits | None = None) -> Finding | None:
    """The first answer that says the same again and again."""
    limits = limits or RepetitionLimits()
    for turn, message in enumerate(messages, 1):
        if message.role != "assistant":
            continue
        text = message.content
        prose = "\n".join(text.split("```")[::2]) if "```" in text else text
        seen = _repetition(prose, limits)
        if seen and _HEX_LINE.search(prose):
            seen = _repetition("\n".join(line for line in prose.split("\n") if not _HEX_LINE.match(line)), limits)
        if seen and not (turn > 1 and _ASKS_TO_REPEAT.search(messages[turn - 2].content)):
            return Finding(Rule.REPETITION, f"turn {turn} {seen}")
    return None


def _repetition(prose: str, limits: RepetitionLimits) -> str | None:
    words = prose.casefold().split()
    return (
        _word_run(prose, words)
        or _unspaced_run(prose)
        or _repeated_sentence(prose, limits)
        or _dominant_ngram(words, limits)
        or _dominant_letter(prose, words, limits)
    )


def find_degenerate(messages: Sequence[Message]) -> Finding | None:
    """The first answer of punctuation alone to a prompt of words, or with one character ten times running."""
    asked_words = False
    for turn, message in enumerate(messages, 1):
        text = message.content
        if message.role != "assistant":
            asked_words = asked_words or any(map(str.isalpha, text))
        elif asked_words and _is_marks(text):
            return Finding(Rule.DEGENERATE, f"turn {turn} is punctuation alone: {quote(text)}")
        elif char := _character_run(text):
            return Finding(
                Rule.DEGENERATE, f"turn {turn} has {quote(char)} {CHARACTER_REPEATS} times running: {quote(text)}"
            )
    return None


def find_mojibake(messages: Sequence[Message]) -> Finding | None:
    """The first turn with text that was decoded in the wrong encoding, by ftfy's heuristic, or with U+FFFD."""
    for turn, message in enumerate(messages, 1):
        text = message.content
        if text.isascii():
            continue
        if (at := text.find("\ufffd")) >= 0:
            return Finding(
                Rule.MOJIBAKE, f"turn {turn} has U+FFFD, which stands for lost bytes: {quote(text[max(0, at - 20) :])}"
            )
        if _MAY_BE_MOJIBAKE.search(text) and (bad := BADNESS_RE.search(text)):
            seen = quote(text[max(0, bad.start() - 10) : bad.end() + 10])
            return Finding(Rule.MOJIBAKE, f"turn {turn} looks decoded in the wrong encoding: {seen}")
    return None


def _word_run(prose: str, words: Sequence[str]) -> str | None:
    """Looked for where two words in a row are equal; numbers and single letters may repeat."""
    if not any(map(eq, words, words[1:])):
        return None
    run = _WORD_RUN.search(prose)
    return run and f"says {quote(run[1])} {WORD_REPEATS} times running"


def _unspaced_run(prose: str) -> str | None:
    """In Chinese, Japanese, Thai and others; one letter again and again, as laughter has it, is left out."""
    if prose.isascii():
        return None
    for run in _UNSPACED_RUN.finditer(prose):
        unit = run[1]
        if len(run[0]) >= UNSPACED_RUN_CHARS and len(set(unit)) > 1 and not any(map(str.isnumeric, unit)):
            return f"says {quote(unit)} {len(run[0]) // len(unit)} times running"
    return None


def _repeated_sentence(prose: str, limits: RepetitionLimits) -> str | None:
    sentences = _SENTENCE_END.split(prose)
    if not any(map(eq, sentences, sentences[1:])):
        return None
    for sentence, following in zip(sentences, sentences[1:], strict=False):
        if sentence == following and len(sentence) >= limits.sentence_chars and _has_words(sentence):
            return f"repeats a sentence at once: {quote(sentence)}"
    return None


def _has_words(sentence: str) -> bool:
    return 2 * sum(map(str.isalpha, sentence)) >= len(sentence)


def _dominant_ngram(words: Sequence[str], limits: RepetitionLimits) -> str | None:
    if len(words) < limits.ngram_text_words:
        return None
    needed = limits.ngram_share * len(words) / NGRAM_WORDS
    if max(Counter(words).values()) < needed:
        return None
    grams = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    gram, count = max(grams.items(), key=itemgetter(1))
    text = " ".join(gram)
    return f"says {quote(text)} {count:,} times" if count >= needed and _has_words(text) else None


def _dominant_letter(prose: str, words: Sequence[str], limits: RepetitionLimits) -> str | None:
    """Letters count where they are at least half of the ink, so formulas of one variable pass.

    In sorted order, a letter with a large share stands at one of a few evenly spaced places.
    """
    inked = sum(map(len, words))
    if inked <= limits.letter_text_chars:
        return None
    codes = np.sort(_code_points(prose))
    step = max(1, int(limits.letter_share * inked / 2))
    common = {char for char in map(chr, codes[::step].tolist()) if char.isalpha() and char not in _PLACEHOLDERS}
    if not common:
        return None
    count, char = max((prose.count(char), char) for char in common)
    if count < step:
        return None
    letters = sum(map(str.isalpha, prose))
    if letters <= limits.letter_text_chars or 2 * letters < inked or count <= limits.letter_share * letters:
        return None
    return f"is {count / letters:.0%} the letter {quote(char)}"


def _is_marks(text: str) -> bool:
    inked = text.replace("…", "...").split()
    return sum(map(len, inked)) >= _MIN_MARKS and all(_MARKS.issuperset(word) for word in inked)


def _character_run(text: str) -> str | None:
    """A letter, emoji or one of `!?,;` ten times running; rule lines, digits, indentation and `xxxx...` may be."""
    codes = _code_points(text)
    blocks = codes[: len(codes) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    if not (blocks[:, 1:] == blocks[:, :1]).all(axis=1).any():
        return None
    runs = (match[1] for match in _REPEATED.finditer(text))
    return next((char for char in runs if not char.isnumeric() and char not in _PLACEHOLDERS), None)


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
