"""The rules of level QUICK: what a row of the right shape must be to be trained on."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from validators.quoting import quote
from validators.report import Rule
from validators.rows import Message, Rejection, Row

ROLES = ("system", "user", "assistant")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
INVISIBLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"
)
"""What Unicode calls default ignorable, as part of a character class: zero-width characters and fillers."""
_INK = re.compile(rf"[^\s{INVISIBLE}]")
_CONTROL_BYTES = (b"\\u00", b"\\b", b"\\f", b"\x7f", b"\xc2")
"""A line with none of these holds no control character: a cheap look before the regular expression."""


@dataclass(frozen=True)
class Reserved:
    """What is reserved for evaluation and must not be trained on.

    `is_held_out` says it of a row's `metadata.problem_key`, `asks_held_out` of a turn's text, which
    can only ask a reserved problem if it holds one of `marks`; with no marks any text may.
    """

    is_held_out: Callable[[str], bool]
    asks_held_out: Callable[[str], bool]
    marks: tuple[str, ...] = ("",)


NOTHING_RESERVED = Reserved(lambda _: False, lambda _: False, marks=())


class RowRules:
    """Checks rows; `special_tokens` are texts that a tokenizer would turn into control tokens."""

    def __init__(self, special_tokens: Iterable[str], reserved: Reserved) -> None:
        tokens = sorted((re.escape(token) for token in special_tokens if token), reverse=True)
        self._special = re.compile("|".join(tokens)) if tokens else None
        self._reserved = reserved

    def check(self, row: Row, kind: str) -> None:
        """Refuse a row that must not be trained on.

        Raises:
            Rejection: by the first rule that the row breaks.
        """
        if kind == "chat_sft":
            _check_roles([message.role for message in row.messages])
            contents = [message.content for message in row.messages]
        else:
            contents = [row.text]
        may_hold_control = any(mark in row.line.data for mark in _CONTROL_BYTES)
        for index, content in enumerate(contents):
            if not has_ink(content):
                raise Rejection(Rule.EMPTY_CONTENT, f"{_place(row.messages, index)} is empty")
            if may_hold_control and (control := _CONTROL.search(content)):
                char, at = ord(control.group()), control.start()
                raise Rejection(
                    Rule.CONTROL_CHARACTER, f"{_place(row.messages, index)} holds U+{char:04X} at character {at}"
                )
            if self._special and (token := self._special.search(content)):
                raise Rejection(
                    Rule.SPECIAL_TOKEN,
                    f"{_place(row.messages, index)} holds the control token {quote(token.group())} "
                    f"at character {token.start()}",
                )
        for index, content in enumerate(contents):
            if self._reserved.asks_held_out(content):
                raise Rejection(
                    Rule.HELD_OUT, f"{_place(row.messages, index)} asks a problem that is reserved for evaluation"
                )
        if row.problem_key is not None and self._reserved.is_held_out(row.problem_key):
            raise Rejection(Rule.HELD_OUT, f"problem {quote(row.problem_key)} is reserved for evaluation")


def has_ink(text: str) -> bool:
    """Whether anything of the text can be seen."""
    return _INK.search(text) is not None


def _check_roles(roles: list[str]) -> None:
    """An optional system turn, then user and assistant in turn, ending with assistant."""
    body = roles[1:] if roles[:1] == ["system"] else roles
    if body and body == ["user", "assistant"] * (len(body) // 2):
        return
    if not roles:
        raise Rejection(Rule.ROLE_ORDER, "messages is empty")
    for turn, role in enumerate(roles, 1):
        if role not in ROLES:
            raise Rejection(Rule.UNKNOWN_ROLE, f"turn {turn} has role {quote(role)}; known roles: {', '.join(ROLES)}")
    first = len(roles) - len(body) + 1
    for offset, role in enumerate(body):
        wanted = ("user", "assistant")[offset % 2]
        if role != wanted:
            raise Rejection(Rule.ROLE_ORDER, f"turn {first + offset} is {role}, wanted {wanted}")
    raise Rejection(Rule.ROLE_ORDER, f"the last turn is {roles[-1]}, wanted assistant")


def _place(messages: Sequence[Message], index: int) -> str:
    return f"turn {index + 1} ({messages[index].role})" if messages else "text"
