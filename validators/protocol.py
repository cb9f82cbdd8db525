"""Rule PROTOCOL_MIX: answers with half of the thinking protocol or marks of another chat format, and mixed files.

An answer follows the protocol if it begins with one thinking emoji, twice or more, or with `<think>`.
It then ends with one stop emoji, twice or more, or closes its `</think>`. One emoji at the beginning is
style, and a stop suffix alone is a direct answer of the same protocol: both pass. A `</think>` with no
`<think>` before it is the end of a thought that was cut off. A mark of another model's chat format, such
as `<|eot_id|>`, at the beginning or the end of an answer is what was left of a turn; in its midst, or alone
where the turn before asks for a token, it is what the answer speaks of, and passes.
"""

import re
from collections.abc import Sequence

from gpu_assets.rendering.profiles.emoji_text import STOP_MARKS, THINK_MARKS
from validators.quoting import quote
from validators.report import Finding, Rule
from validators.rows import Message

MIN_REPEATS = 2
MIN_ROWS = 20
MIX_SHARES = (0.3, 0.7)
"""A file whose share of rows with the protocol lies between these, both included, holds two kinds of rows."""

_VARIATION = "\ufe0f?"
_MORE = rf"{{{MIN_REPEATS - 1},}}"
_PREFIX = re.compile(rf"([{THINK_MARKS}]){_VARIATION}(?:\1{_VARIATION}){_MORE}")
_SUFFIX = re.compile(rf"([{STOP_MARKS}]){_VARIATION}(?:\1{_VARIATION}){_MORE}\Z")
_SUFFIX_CHARS = 200
_OPEN, _CLOSE = "<think>", "</think>"
_CLOSED = re.compile(r"(?<![`'\"])</think>(?![`'\"])")
_FORMAT_MARK = (
    r"(?:<\|(?:eot_id|eom_id|start_header_id|end_header_id|begin_of_text|end_of_text|im_start|im_end|endoftext|end"
    r"|user|assistant|system)\|>|<(?:start|end)_of_turn>|\[/?INST\]|<<SYS>>)"
)
_MARK_ALONE = re.compile(rf"{_FORMAT_MARK}\.?")
_ASKS_FOR_A_MARK = re.compile(
    r"token|\btags?\b|marker|delimit|separat|template|\bturns?\b|chatml|\bllama|\bgemma|\bmistral|trenn|jeton|balise"
    r"|etiqueta|токен|标记|令牌|トークン|토큰",
    re.IGNORECASE,
)
_LEFT_OVER = re.compile(rf"\A{_FORMAT_MARK}|{_FORMAT_MARK}\Z")


def has_protocol(answer: str) -> bool:
    """Whether the answer begins as the thinking protocol does."""
    start = answer[:_SUFFIX_CHARS].lstrip()
    return start.startswith(_OPEN) or _PREFIX.match(start) is not None


def find_protocol_break(messages: Sequence[Message]) -> Finding | None:
    """The first answer that has half of the protocol, or is wrapped in marks of another format."""
    for turn, message in enumerate(messages, 1):
        answer = message.content.strip()
        if message.role == "assistant" and (broken := _protocol_break(answer)):
            asked = messages[turn - 2].content if turn > 1 else ""
            if not (_MARK_ALONE.fullmatch(answer) and _ASKS_FOR_A_MARK.search(asked)):
                return Finding(Rule.PROTOCOL_MIX, f"turn {turn} {broken}: {quote(answer)}")
    return None


def _protocol_break(answer: str) -> str | None:
    if has_protocol(answer):
        if answer.startswith(_OPEN):
            ended, wanted = _CLOSE in answer, _CLOSE
        else:
            ended, wanted = _SUFFIX.search(answer[-_SUFFIX_CHARS:]) is not None, "a stop suffix"
        if not ended:
            return f"begins to think and has no {wanted}"
    elif _CLOSE in answer and (closed := _CLOSED.search(answer)) and _OPEN not in answer[: closed.start()]:
        return f"has {_CLOSE} and no {_OPEN} before it"
    mark = _LEFT_OVER.match(answer) or _LEFT_OVER.search(answer, max(0, len(answer) - _SUFFIX_CHARS))
    return f"begins or ends with {mark[0]}" if mark else None


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
