"""The language of the profile `emoji_think`: its emoji, how they are asked for, and how answers carry them.

Variation selectors are written as the pools have them and ignored where text is read.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

THINK_EMOJI = ("🤔", "💭", "🧠", "💡", "🎯", "🔍", "🤨", "🧐", "⚡", "✨")
STOP_EMOJI = ("🛑", "⛔", "🚫", "❌", "🔴", "⏹️", "🔚", "✋", "🚦", "🛡️")
THINK_COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
STOP_COUNTS = {"twice": 2, "three times": 3, "four times": 4}
THINK_TAGS = ("<think>", "</think>")
TAG_END = ">"
VARIATION = "\ufe0f"

THINK_MARKS, STOP_MARKS = ("".join(emoji[0] for emoji in pool) for pool in (THINK_EMOJI, STOP_EMOJI))
"""The emoji of a pool without their variation selectors, as one text."""
_WRITTEN = {emoji[0]: emoji for emoji in (*THINK_EMOJI, *STOP_EMOJI)}
_ASKED_THINK = re.compile(rf"think with ([{THINK_MARKS}]){VARIATION}? ({'|'.join(THINK_COUNTS)}) times", re.IGNORECASE)
_ASKED_STOP = re.compile(
    rf"when you have finished, write ([{STOP_MARKS}]){VARIATION}? ({'|'.join(STOP_COUNTS)})", re.IGNORECASE
)
_INSTRUCTIONS = re.compile(rf"\n\n(?:{_ASKED_THINK.pattern}\. )?{_ASKED_STOP.pattern}\.\Z", re.IGNORECASE)
_RUNS_AT_START = re.compile(rf"(?:\s*([{THINK_MARKS}]){VARIATION}?(?:\1{VARIATION}?)+)+")
_RUNS_AT_END_REVERSED = re.compile(rf"(?:\s*{VARIATION}?([{STOP_MARKS}])(?:{VARIATION}?\1)+)+")
_STOP_RUN = re.compile(rf"([{STOP_MARKS}]){VARIATION}?(?:\1{VARIATION}?)*")


class Run(NamedTuple):
    """One emoji, so many times in a row; `emoji` is written as its pool has it."""

    emoji: str
    times: int

    @property
    def text(self) -> str:
        return self.emoji * self.times


class FoundRun(NamedTuple):
    """A run of a stop emoji in a text that is still being written."""

    run: Run
    end: int
    whole: bool
    """Whether the last emoji has the variation selector that belongs to it, if one does."""


def asked_think(text: str) -> Run | None:
    """What a text asks to think with; the last, if it asks several times."""
    found = _ASKED_THINK.findall(text)
    return Run(_WRITTEN[found[-1][0]], THINK_COUNTS[found[-1][1].lower()]) if found else None


def asked_stop(text: str) -> Run | None:
    """What a text asks to end with; the last, if it asks several times."""
    found = _ASKED_STOP.findall(text)
    return Run(_WRITTEN[found[-1][0]], STOP_COUNTS[found[-1][1].lower()]) if found else None


def instructions(think: Run | None, stop: Run) -> str:
    """What is put behind a question."""
    first = "" if think is None else f"Think with {think.emoji} {_word(THINK_COUNTS, think.times)} times. "
    return f"\n\n{first}When you have finished, write {stop.emoji} {_word(STOP_COUNTS, stop.times)}."


def without_instructions(question: str) -> str:
    """A question as it was before `instructions` were put behind it."""
    return _INSTRUCTIONS.sub("", question)


def bare_answer(answer: str) -> str:
    """An answer without think tags, thinking emoji at its beginning, stop emoji at its end, and blanks around it.

    A single emoji is no run and stays.
    """
    answer = _without_tags(answer)
    if (runs := _RUNS_AT_START.match(answer)) is not None:
        answer = answer[runs.end() :]
    backwards = answer.rstrip()[::-1]
    if (runs := _RUNS_AT_END_REVERSED.match(backwards)) is not None:
        backwards = backwards[runs.end() :]
    return backwards[::-1].strip()


def stop_runs(text: str) -> list[FoundRun]:
    """Every run of a stop emoji, single ones too, in order."""
    found = []
    for match in _STOP_RUN.finditer(text):
        emoji = _WRITTEN[match[1]]
        whole = not emoji.endswith(VARIATION) or match[0].endswith(VARIATION)
        found.append(FoundRun(Run(emoji, match[0].count(match[1])), match.end(), whole))
    return found


def _without_tags(text: str) -> str:
    """A text without think tags, those too that stand there once one within them is gone; in linear time.

    No end of a tag begins one, so that the order in which they are taken out does not matter.
    """
    kept: list[str] = []
    parts = text.split(TAG_END)
    for part in parts[:-1]:
        kept += part
        kept.append(TAG_END)
        for tag in THINK_TAGS:
            if "".join(kept[-len(tag) :]) == tag:
                del kept[-len(tag) :]
                break
    return "".join(kept) + parts[-1]


def _word(words: Mapping[str, int], times: int) -> str:
    return next(word for word, meaning in words.items() if meaning == times)
