"""The fast path of level QUICK: one regular expression that describes plainly good rows.

A line that matches is a row that every rule of `RowRules` would pass, with no warning: the columns
of its schema and no other, turns in order, no empty turn, no control character, no key that could
be there twice. So it need not be decoded to be counted, which is several times faster than decoding
it. A line that does not match may still be good: it is looked at by the rules themselves. The
expression runs in polars' linear-time engine, so no line can make it slow.
"""

from collections.abc import Iterable
from itertools import product
from os.path import commonprefix

import polars as pl

from validators.lines import Chunk
from validators.rules import INVISIBLE
from validators.spec import DatasetSpec

_GAP = r"[ \t]*"
_COMMA = rf"{_GAP},{_GAP}"
_COLON = rf"{_GAP}:{_GAP}"
_HEX = "[0-9a-fA-F]"
_PLAIN = r'[^"\\\x00-\x1f\x7f-\x{9f}]'
_PAIR = rf"\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}"
"""A surrogate pair; a lone one is no text."""
_LETTER_ESCAPE = rf"\\u(?:[4-9a-cA-C]{_HEX}{{3}}|[dD][0-7]{_HEX}{{2}}|0[1-9a-fA-F]{_HEX}{{2}})|{_PAIR}"
"""Escaped characters that are neither ASCII, nor a control, nor white space."""
_OTHER_ESCAPE = rf"\\u(?:[1-3eEfF]{_HEX}{{3}}|00[a-fA-F]{_HEX})"
_CHAR = rf'(?:{_PLAIN}|\\["\\nrt]|{_LETTER_ESCAPE}|{_OTHER_ESCAPE})'
_BLANK = r"(?:[\s--[\x00-\x1f\x85]]|\\[nrt])"
_INK_ESCAPE = (
    rf"\\u(?:[4-9a-cA-C]{_HEX}{{3}}|[dD][0-7]{_HEX}{{2}}|0[124-57-9a-fA-F]{_HEX}{{2}}"
    rf"|03(?:[0-35-9a-fA-F]{_HEX}|4[0-9a-eA-E])|06(?:[02-9a-fA-F]{_HEX}|1[0-9abABd-fD-F]))"
    rf"|\\u[dD](?:[89aA]{_HEX}{{2}}|[bB](?:[0-35-9a-fA-F]{_HEX}|4[4-9a-fA-F]))\\u[dD][c-fC-F]{_HEX}{{2}}"
)
"""Those of `_LETTER_ESCAPE` that can be seen."""
_INK = rf'(?:[^\s"\\\x00-\x1f\x7f-\x{{9f}}{INVISIBLE}]|\\["\\]|{_INK_ESCAPE})'
_TEXT = f'"{_BLANK}*{_INK}{_CHAR}*"'
_STRING = f'"{_CHAR}*"'
_KEY = f'"{_PLAIN}*"'
_NUMBER = r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?"
_SCALAR = f"(?:{_STRING}|{_NUMBER}|true|false|null)"


def _list(item: str) -> str:
    return rf"\[{_GAP}(?:{item}(?:{_COMMA}{item})*)?{_GAP}\]"


def _object(value: str) -> str:
    pair = f"{_KEY}{_COLON}{value}"
    return rf"\{{{_GAP}(?:{pair}(?:{_COMMA}{pair})*)?{_GAP}\}}"


_VALUE = f"(?:{_SCALAR}|{_list(_SCALAR)}|{_object(_SCALAR)})"
_METADATA = f'"metadata"{_COLON}(?:{_object(_VALUE)}|null)'


def _turn(role: str) -> str:
    named, said = f'"role"{_COLON}"{role}"', f'"content"{_COLON}{_TEXT}'
    return rf"\{{{_GAP}(?:{named}{_COMMA}{said}|{said}{_COMMA}{named}){_GAP}\}}"


_EXCHANGE = f"{_turn('user')}{_COMMA}{_turn('assistant')}"
_CONVERSATION = rf"\[{_GAP}(?:{_turn('system')}{_COMMA})?{_EXCHANGE}(?:{_COMMA}{_EXCHANGE})*{_GAP}\]"
_CONTENT = {"chat_sft": f'"messages"{_COLON}{_CONVERSATION}', "completion": f'"text"{_COLON}{_TEXT}'}
_REFERRED = ("problem_key",)
"""A metadata key that rules look into; lines that hold it are decoded."""


class PlainRows:
    """Tells which lines are plainly good rows of a schema.

    `marks` are texts of which none may stand in a row's content unseen: control tokens, and what
    reserved problems are recognised by; the empty text is everywhere. A line that holds one, or
    could hold one in escapes, is not plainly good.
    """

    def __init__(self, spec: DatasetSpec, marks: Iterable[str], max_row_bytes: int) -> None:
        content = _CONTENT[spec.kind]
        columns = rf"(?:{content}(?:{_COMMA}{_METADATA})?|{_METADATA}{_COMMA}{content})"
        self._row = rf"^\{{{_GAP}{columns}{_GAP}\}}{_GAP}$"
        self._max_row_bytes = max_row_bytes
        marks = {*_REFERRED, *marks}
        escapes = {escape for mark in marks for escape in _escapes(mark)}
        self._marks = _beginnings(marks, 2) + _beginnings(escapes, len(r"\u24"))

    def match(self, chunk: Chunk) -> pl.Series | None:
        """A boolean a line, true where the line is plainly good; None if the chunk is not UTF-8."""
        try:
            lines = _read_lines(chunk.data)
        except pl.exceptions.ComputeError:
            return None
        chunk.counted = len(lines)
        plain = lines.str.contains(self._row) & (lines.str.len_bytes() <= self._max_row_bytes)
        for mark in self._marks:
            plain &= ~lines.str.contains(mark, literal=True)
        return plain


def _read_lines(data: bytes) -> pl.Series:
    """What begins like a compressed file would be unpacked; with a line feed before it nothing does."""
    if data.startswith(b"{"):
        return pl.read_lines(data)["line"]
    return pl.read_lines(b"\n" + data)["line"][1:]


def _beginnings(marks: set[str], size: int) -> list[str]:
    """Texts of which each mark begins with one: a search each, so marks whose first `size` are equal share one."""
    alike: dict[str, list[str]] = {}
    for mark in marks:
        alike.setdefault(mark[:size], []).append(mark)
    return sorted(commonprefix(group) for group in alike.values())


def _escapes(mark: str) -> set[str]:
    """What a line must hold for the text to stand in it in another way, of those that the expression allows.

    That is an escape of a character that is not ASCII, its digits in any case; of a surrogate pair the first one.
    """
    units = [char.encode("utf-16-be")[:2].hex() for char in mark if not char.isascii()]
    escapes = {rf"\u{''.join(digits)}" for unit in units for digits in product(*({d, d.upper()} for d in unit))}
    return escapes | ({"\\"} if any(char in mark for char in '"\\\n\r\t') else set())
