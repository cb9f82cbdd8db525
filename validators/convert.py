"""Rows that people have, turned into rows of a schema: Alpaca, ShareGPT, and what Parquet columns hold.

A row that cannot be turned is a `Rejection` by one of the content gate's rules, and a row that can is
one that passes them: conversations are neither repaired nor cut. Columns that are not part of the
conversation are kept under `metadata`. Pure: bytes in, bytes out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from gpu_assets.errors import DatasetInvalid
from validators.lines import Line
from validators.quoting import name_list, quote
from validators.report import Rule
from validators.rows import Rejection, RowDecoder, check_line, read_object
from validators.rules import NOTHING_RESERVED, ROLES, RowRules
from validators.spec import DATASET_SPECS

Record = Mapping[str, Raw]

_ROLE_NAMES: Mapping[str, str] = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id")


@dataclass(frozen=True)
class Shape:
    """One way to hold a row in columns; `used` are those that become the row, the others become metadata."""

    name: str
    schema_id: str
    required: tuple[str, ...]
    used: frozenset[str]
    content: Callable[[Record], Mapping[str, Any]]


def _alpaca(record: Record) -> dict[str, Any]:
    if _value(record, "history"):
        raise Rejection(Rule.WRONG_TYPE, "column history holds earlier turns, which are not converted")
    instruction, more = _text(record, "instruction"), _optional_text(record, "input")
    asked = "\n\n".join(part for part in (instruction, more) if part.strip())
    return _conversation(record, [_turn("user", asked), _turn("assistant", _text(record, "output"))])


def _sharegpt(record: Record) -> dict[str, Any]:
    return _conversation(record, _read_turns(record, "conversations"))


def _messages(record: Record) -> dict[str, Any]:
    return _conversation(record, _read_turns(record, "messages"))


def _prompt_and_completion(record: Record) -> dict[str, Any]:
    answer = "completion" if "completion" in record else "response"
    return _conversation(record, [*_said(record, "prompt", "user"), *_said(record, answer, "assistant")])


def _plain_text(record: Record) -> dict[str, Any]:
    return {"text": _text(record, "text")}


def _shape(
    name: str, required: Sequence[str], optional: Sequence[str], content: Callable[[Record], Mapping[str, Any]]
) -> Shape:
    schema_id = "completion_v1" if content is _plain_text else "chat_sft_v1"
    return Shape(name, schema_id, tuple(required), frozenset((*required, *optional)), content)


ALPACA = _shape("alpaca", ["instruction", "output"], ["input", "history", "system"], _alpaca)
SHAREGPT = _shape("sharegpt", ["conversations"], ["system"], _sharegpt)
COLUMN_SHAPES = (
    _shape("messages", ["messages"], ["system"], _messages),
    SHAREGPT,
    _shape("prompt and completion", ["prompt", "completion"], ["system"], _prompt_and_completion),
    _shape("prompt and response", ["prompt", "response"], ["system"], _prompt_and_completion),
    ALPACA,
    _shape("text", ["text"], [], _plain_text),
)
"""What columns are read as: the first of these whose required columns are all there."""


def choose_shape(columns: Sequence[str]) -> Shape:
    """The shape of rows with these columns.

    Raises:
        DatasetInvalid: if they fit none.
    """
    for shape in COLUMN_SHAPES:
        if set(shape.required) <= set(columns):
            return shape
    known = "; ".join(" + ".join(shape.required) for shape in COLUMN_SHAPES)
    raise DatasetInvalid(f"the columns {name_list(columns)} fit no known row; known columns: {known}. Rename them")


class Converter:
    """Turns rows of one shape, each a JSON object, into rows of its schema."""

    def __init__(self, shape: Shape, max_row_bytes: int) -> None:
        self._shape = shape
        self._max_row_bytes = max_row_bytes
        self._kind = DATASET_SPECS[shape.schema_id].kind
        self._decoder = RowDecoder(DATASET_SPECS[shape.schema_id])
        self._rules = RowRules((), NOTHING_RESERVED)

    def convert(self, line: Line) -> bytes:
        """The row, one JSON line without its end, which passes level QUICK but for the model's own tokens.

        Raises:
            Rejection: if the line holds no row of the shape, or one that the content gate would reject.
        """
        check_line(line, self._max_row_bytes)
        record = read_object(line.data)
        missing = [column for column in self._shape.required if column not in record]
        if missing:
            raise Rejection(
                Rule.MISSING_COLUMN, f"column {name_list(missing)} is missing; the row has {name_list(record)}"
            )
        try:
            row = dict(self._shape.content(record))
            if metadata := _metadata(record, self._shape.used):
                row["metadata"] = metadata
            data = msgspec.json.format(msgspec.json.encode(row), indent=-1)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Rejection(Rule.INVALID_JSON, str(error)[:200]) from None
        converted = Line(line.number, data, len(data))
        check_line(converted, self._max_row_bytes)
        self._rules.check(self._decoder.decode(converted), self._kind)
        return data


def _metadata(record: Record, used: frozenset[str]) -> dict[str, Raw]:
    """The row's own metadata, and the columns that are not part of the row."""
    others = {column: value for column, value in record.items() if column not in used and bytes(value) != b"null"}
    if bytes(others.get("metadata", b""))[:1] == b"{":
        others = {**read_object(bytes(others.pop("metadata"))), **others}
    return others


def _conversation(record: Record, turns: list[dict[str, str]]) -> dict[str, Any]:
    system = _optional_text(record, "system")
    return {"messages": [_turn("system", system), *turns] if system.strip() else turns}


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _said(record: Record, column: str, role: str) -> list[dict[str, str]]:
    """A text is one turn of that role, a list is turns."""
    if isinstance(_value(record, column), list):
        return _read_turns(record, column)
    return [_turn(role, _text(record, column))]


def _read_turns(record: Record, column: str) -> list[dict[str, str]]:
    """Turns as `from` and `value` or as `role` and `content`; a column of JSON text is read as JSON."""
    turns = _value(record, column)
    if isinstance(turns, str):
        turns = msgspec.json.decode(turns)
    if not isinstance(turns, list):
        raise Rejection(Rule.WRONG_TYPE, f"column {column} is {_type_name(turns)}, wanted a list of turns")
    return [_read_turn(number, turn) for number, turn in enumerate(turns, 1)]


def _read_turn(number: int, turn: Any) -> dict[str, str]:
    if not isinstance(turn, dict):
        raise Rejection(Rule.WRONG_TYPE, f"turn {number} is {_type_name(turn)}, wanted an object")
    if tools := [key for key in _TOOL_KEYS if turn.get(key)]:
        raise Rejection(Rule.UNKNOWN_ROLE, f"turn {number} has {name_list(tools)}: tool turns are not converted")
    named = turn.get("from", turn.get("role"))
    role = _ROLE_NAMES.get(named) if isinstance(named, str) else None
    if role is None:
        seen = quote(named) if isinstance(named, str) else _type_name(named)
        raise Rejection(
            Rule.UNKNOWN_ROLE, f"turn {number} is of {seen}; roles that are converted: {name_list(_ROLE_NAMES)}"
        )
    said = turn.get("value", turn.get("content"))
    if not isinstance(said, str):
        raise Rejection(Rule.WRONG_TYPE, f"turn {number} says {_type_name(said)}, wanted text")
    return _turn(role, said)


def _text(record: Record, column: str) -> str:
    value = _value(record, column)
    if not isinstance(value, str):
        raise Rejection(Rule.WRONG_TYPE, f"column {column} is {_type_name(value)}, wanted text")
    return value


def _optional_text(record: Record, column: str) -> str:
    """ "" where the column is missing or null."""
    return "" if _value(record, column) is None else _text(record, column)


def _value(record: Record, column: str) -> Any:
    return msgspec.json.decode(record[column]) if column in record else None


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
