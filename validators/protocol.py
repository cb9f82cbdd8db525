"""Rule PROTOCOL_MIX: answers that begin the thinking protocol and do not end it, and files of two kinds.

An answer follows the protocol if it begins with one thinking emoji, twice or more, or with `<think>`.
It then ends with one stop emoji, twice or more, or closes its `</think>`. One emoji at the beginning is
style, and a stop suffix alone is a direct answer of the same protocol: both pass.
"""

import re
from collections.abc import Sequence

from validators.quoting import quote
from validators.report import Finding, Rule
from validators.rows import Message

THINKING_EMOJI = "🤔💭🧠💡🎯🔍🤨🧐⚡✨"
STOP_EMOJI = "🛑⛔🚫❌🔴⏹🔚✋🚦🛡"
MIN_REPEATS = 2
MIN_ROWS = 20
MIX_SHARES = (0.3, 0.7)
"""A file whose share of rows with the protocol lies between these, both included, holds two kinds of rows."""

_VARIATION = "\ufe0f?"
_MORE = rf"{{{MIN_REPEATS - 1},}}"
_PREFIX = re.compile(rf"([{THINKING_EMOJI}]){_VARIATION}(?:\1{_VARIATION}){_MORE}")
_SUFFIX = re.compile(rf"([{STOP_EMOJI}]){_VARIATION}(?:\1{_VARIATION}){_MORE}\Z")
_SUFFIX_CHARS = 200
_OPEN, _CLOSE = "<think>", "</think>"


def has_protocol(answer: str) -> bool:
    """Whether the answer begins as the thinking protocol does."""
    start = answer[:_SUFFIX_CHARS].lstrip()
    return start.startswith(_OPEN) or _PREFIX.match(start) is not None


def find_protocol_break(messages: Sequence[Message]) -> Finding | None:
    """The first answer that begins the protocol and does not end it."""
    for turn, message in enumerate(messages, 1):
        if message.role != "assistant" or not has_protocol(message.content):
            continue
        answer = message.content.strip()
        if answer.startswith(_OPEN):
            ended, wanted = _CLOSE in answer, _CLOSE
        else:
            ended, wanted = _SUFFIX.search(answer[-_SUFFIX_CHARS:]) is not None, "a stop suffix"
        if not ended:
            return Finding(Rule.PROTOCOL_MIX, f"turn {turn} begins to think and has no {wanted}: {quote(answer)}")
    return None


def protocol_mix(
    with_protocol: int, rows: int, min_rows: int = MIN_ROWS, shares: tuple[float, float] = MIX_SHARES
) -> Finding | None:
    """Of a whole file: whether rows with the protocol and rows without it are mixed."""
    if rows < max(1, min_rows) or not shares[0] <= with_protocol / rows <= shares[1]:
        return None
    return Finding(
        Rule.PROTOCOL_MIX,
        f"{with_protocol:,} of {rows:,} rows ({with_protocol / rows:.0%}) begin with the thinking protocol, "
        "the others do not; a model trained on both learns neither",
    )
