"""Rule ANSWER_LEAKAGE: the answer already stands in the prompt, so the model would learn to copy it.

The rule rejects rows, so it prefers to miss a leak over refusing a good row. Two things are a leak:

- An answer of any length that the prompt states behind a label at its very end ("... Answer: 42"),
  unless the prompt shows a form or an example there.
- A whole answer that is long enough (characters and words), mostly letters, and stands in an earlier
  turn as a piece of its own: it ends the turn, fills whole lines, or is half of the turn or more.

A short answer without a label is never one: results, operands, labels, options and spans taken from
a passage stand in their prompts by nature. A sentence inside a passage is an extract, not a leak. Nor
is it a leak where the turn asks for a copy (extract, repeat, translate, correct, choose, ...; the list
is English) or where the answer is one of lettered or numbered options. Texts are compared in case-folded
form with white space collapsed. Not found: paraphrases, answers given in part, answers quoted in running text.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from validators.quoting import quote
from validators.report import Finding, Rule
from validators.rows import Message

MIN_CHARS = 60
MIN_WORDS = 10
MIN_LETTER_SHARE = 0.6
MIN_TURN_SHARE = 0.5
RECENT_TURNS = 16
"""Turns before an answer in which it is looked for."""
LABEL_CHARS = 200
"""How far before the answer a label, an example or a form is looked for."""

_PROBE_CHARS = 100
_EDGE = " .,;:!?'\"`*_()[]{}“”‘’"
_LABEL = re.compile(
    r"(?:^|[\n.?!;,(>*])[ *_#>]*"
    r"(?:the )?(?:correct |expected |final |right |model |reference |gold |desired |true )?"
    r"(?:answer|solution|output|response|result|label|target|completion|expected)(?: is)?[ *_]*[:=][ *_'\"`]*$"
)
_FORM = re.compile(r"\bexamples?\b|\be\.g\.|for instance|\bformat\b|\bform\b|\btemplate\b|such as|like this|reply with")
_COPY = re.compile(
    r"\b(?:extract|quot(?:e|es|ing|ation)\b|verbatim|cop(?:y|ies)\b|repeat|recite|echo\b|rewrit|reword|rephras|paraphras"
    r"|correct (?:the|this|any|all|these|those|following|my|it|grammar|spelling|errors?|mistakes?|punctuation)"
    r"|proofread|grammar|grammatical|spelling|typos?\b|punctuat|edit\b|edit(?:ed|ing) |revis(?:e|ion)|translat"
    r"|transcri|transliterat|format the|reformat|indent|unscrambl|reorder|rearrang|highlight|underline|lower-?case"
    r"|(?:remove|delete|strip|fix|convert|clean|clean up) (?:the|this|these|any|all|every|it)\b"
    r"|upper-?case|capitali[sz]|shorten|simplif|refactor|exact(?:ly)? (?:words?|sentence|passage|phrase|text|as)"
    r"|word for word|choose|select|pick|options?\b"
    r"|which (?:one|of|sentence|statement|option|passage|paragraph|line|answer|response|title|headline|review|version)"
    r"|(?:find|identify|locate|give|return|print|output) the (?:\w+ )?"
    r"(?:sentence|paragraph|line|passage|phrase|text)s?)"
)
_OPTION = re.compile(r"\(?[a-z0-9]{1,2}[).:] ")
_OPTION_BEFORE = re.compile(r"(?:^|\s)(?:\(?[a-z0-9]{1,2}[).]|[-*•]) $")
_OPTION_CHARS = 6
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_UNSPACED_PER_WORD = 2
_OWN_LABEL = re.compile(r"(?:the )?(?:correct |final )?answer(?: is)? ?: ")


@dataclass(frozen=True)
class LeakageLimits:
    """From what size on an answer without a label counts; lengths are of the collapsed answer.

    In scripts written without spaces two characters count as a word. `min_turn_share` is the share of
    the turn that the answer must fill to be a leak wherever in it it stands.
    """

    min_chars: int = MIN_CHARS
    min_words: int = MIN_WORDS
    min_letter_share: float = MIN_LETTER_SHARE
    min_turn_share: float = MIN_TURN_SHARE


def find_leakage(messages: Sequence[Message], limits: LeakageLimits | None = None) -> Finding | None:
    """The first assistant turn whose answer an earlier turn of another role gives away."""
    limits = limits or LeakageLimits()
    folded: deque[tuple[int, str]] = deque(maxlen=RECENT_TURNS)
    for index, message in enumerate(messages):
        if message.role != "assistant":
            folded.append((index, message.content.casefold()))
        elif folded and (at := _giving_turn(folded, message.content, limits)) is not None:
            return Finding(
                Rule.ANSWER_LEAKAGE,
                f"turn {at + 1} ({messages[at].role}) holds the answer of turn {index + 1}: {quote(message.content)}",
            )
    return None


def _giving_turn(folded: Sequence[tuple[int, str]], content: str, limits: LeakageLimits) -> int | None:
    """The turn that gives the answer away. The longest of its first words is looked for before all else."""
    words = _OWN_LABEL.sub("", content[:_PROBE_CHARS].casefold(), count=1).split()
    probe = max(words[:-1] if len(content) > _PROBE_CHARS else words, key=len, default="").strip(_EDGE)
    holding = [(index, text) for index, text in folded if probe in text]
    if not holding:
        return None
    answer = " ".join(content.casefold().split())
    last, _ = folded[-1]
    for index, text in holding:
        if (index == last and _is_labelled(text, answer)) or _is_whole_piece(text, answer, limits):
            return index
    return None


def _is_labelled(turn: str, answer: str) -> bool:
    """Whether the turn ends with a label and the answer; the answer's own label is left out."""
    bare = _OWN_LABEL.sub("", answer, count=1).strip(_EDGE) or answer
    flat = _collapse_lines(turn[-2 * (len(bare) + LABEL_CHARS) :]).rstrip(_EDGE + "\n")
    if not flat.replace("\n", " ").endswith(bare):
        return False
    head = flat[: len(flat) - len(bare)][-LABEL_CHARS:]
    label = _LABEL.search(head)
    return label is not None and not _FORM.search(head) and not _COPY.search(head[: label.start()])


def _is_whole_piece(turn: str, answer: str, limits: LeakageLimits) -> bool:
    if len(answer) < limits.min_chars or len(answer) > len(turn):
        return False
    lines = _collapse_lines(turn)
    flat = lines.replace("\n", " ")
    at = flat.find(answer)
    if at < 0 or not _is_prose(answer, limits) or _OPTION.match(answer):
        return False
    before, after = lines[:at], lines[at + len(answer) :]
    if _OPTION_BEFORE.search(before[-_OPTION_CHARS:]) or _COPY.search(before) or _COPY.search(after):
        return False
    if len(answer) >= limits.min_turn_share * len(flat):
        return True
    begins = not before or before[-1] == "\n" or before.rstrip(" ").endswith((":", "?"))
    ends = not after or after[0] == "\n"
    return not after or (begins and ends)


def _collapse_lines(text: str) -> str:
    """White space collapsed, line ends kept, blank lines dropped."""
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))


def _is_prose(answer: str, limits: LeakageLimits) -> bool:
    letters = sum(map(str.isalpha, answer))
    inked = len(answer) - answer.count(" ")
    words = len(answer.split()) + len(_UNSPACED.findall(answer)) / _UNSPACED_PER_WORD
    return words >= limits.min_words and letters >= limits.min_letter_share * inked
