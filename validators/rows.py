"""Lines to typed rows: the shape of rows, not what makes their content good.

A line is decoded by one typed decoder per schema; only lines that it refuses are looked at again
to say why.
"""

import codecs
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gpu_assets.errors import DatasetInvalid
from validators.lines import EXCERPT_BYTES, Line, LineReader, foreign_format
from validators.quoting import name_list, quote_bytes
from validators.report import Rule
from validators.spec import DatasetSpec

PEEKED_ROWS = 100


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn of a conversation; further keys are ignored."""

    role: str
    content: str


class _StrictMessage(Message, frozen=True, forbid_unknown_fields=True, gc=False):
    """Refuses further keys, so that they can be reported."""


class _Metadata(msgspec.Struct, frozen=True):
    problem_key: str | None = None
    skill: Any = None


class Row(NamedTuple):
    """A row of the right shape: `messages` of chat rows, `text` of completion rows.

    `metadata` is JSON and holds the schema's other columns too; `unknown_columns` were dropped.
    """

    line: Line
    messages: list[Message]
    text: str
    metadata: str | None
    problem_key: str | None
    skill: str | None
    unknown_columns: tuple[str, ...]


class Rejection(Exception):
    """A line is no row, or a row breaks a rule."""

    def __init__(self, rule: Rule, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule
        self.detail = detail


def read_columns(path: Path, max_row_bytes: int, name: str | None = None) -> frozenset[str]:
    """The columns that at least half of the first 100 readable rows have; `name` as for `LineReader`.

    Raises:
        DatasetInvalid: if the file cannot be read, is empty, is not text, or none of its first
            100 lines is a JSON object.
    """
    counts: Counter[str] = Counter()
    objects = 0
    first_problem = None
    with LineReader(path, name) as reader:
        if format_name := foreign_format(reader.head()):
            raise DatasetInvalid(
                f"{name or path} is not JSONL: it looks like {format_name}; export it as UTF-8 JSON lines"
            )
        for line in _peeked(reader, max_row_bytes):
            try:
                check_line(line, max_row_bytes)
                counts.update(read_object(line.data.removeprefix(codecs.BOM_UTF8)).keys())
                objects += 1
            except Rejection as rejection:
                first_problem = first_problem or f"line {line.number}: {rejection.detail}"
    if objects:
        return frozenset(column for column, count in counts.items() if 2 * count >= objects)
    if first_problem is None:
        raise DatasetInvalid(f"{name or path} is empty: it holds no rows")
    raise DatasetInvalid(f"{name or path}: none of its first {PEEKED_ROWS} lines is a JSON object ({first_problem})")


def check_line(line: Line, max_row_bytes: int) -> None:
    """Refuse a line that must not be parsed.

    Raises:
        Rejection: if the line is over the cap or not UTF-8.
    """
    if line.size > max_row_bytes:
        raise Rejection(
            Rule.ROW_TOO_LONG,
            f"the line has {line.size:,} bytes, the limit is {max_row_bytes:,} (validation.max_row_bytes)",
        )
    try:
        line.data.decode("utf-8")
    except UnicodeDecodeError as error:
        seen = quote_bytes(line.data[max(0, error.start - 20) : error.start + 10])
        raise Rejection(Rule.NOT_UTF8, f"{error.reason} at byte {error.start}: {seen}") from None


class RowDecoder:
    """Decodes lines of one schema."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._spec = spec
        self._others = tuple(
            column
            for column in (*spec.required_columns, *spec.optional_columns)
            if column not in ("messages", "text", "metadata", "system_prompt")
        )
        self._once_marks = [(f'"{key}"'.encode(), 1) for key in sorted(spec.columns | {"problem_key"})]
        self._strict = msgspec.json.Decoder(_row_type(spec, _StrictMessage, strict=True))
        self._lenient = msgspec.json.Decoder(_row_type(spec, Message, strict=False))

    def decode(self, line: Line) -> Row:
        """The row of a UTF-8 line.

        Raises:
            Rejection: if it is not JSON, not an object, has a key twice, lacks a column, or a
                value has the wrong type.
        """
        unknown: tuple[str, ...] = ()
        try:
            values = self._strict.decode(line.data)
        except (msgspec.MsgspecError, RecursionError):
            values, unknown = self._decode_lenient(line.data)
        self._refuse_duplicates(line.data, values)
        messages = getattr(values, "messages", [])
        messages = _with_system_prompt(messages, getattr(values, "system_prompt", None))
        metadata, named = self._metadata(values)
        skill = named.skill if isinstance(named.skill, str) else None
        return Row(line, messages, getattr(values, "text", ""), metadata, named.problem_key, skill, unknown)

    def _decode_lenient(self, data: bytes) -> tuple[Any, tuple[str, ...]]:
        """The row without the columns that the schema does not know, and their names."""
        columns = read_object(data)
        missing = [column for column in self._spec.required_columns if column not in columns]
        if missing:
            raise Rejection(
                Rule.MISSING_COLUMN, f"column {name_list(missing)} is missing; the row has {name_list(columns)}"
            )
        try:
            values = self._lenient.decode(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Rejection(Rule.WRONG_TYPE, str(error)[:EXCERPT_BYTES]) from None
        unknown = sorted(columns.keys() - self._spec.columns)
        if "messages" in self._spec.columns:
            unknown += _unknown_message_keys(columns["messages"])
        return values, tuple(unknown)

    def _refuse_duplicates(self, data: bytes, values: Any) -> None:
        """JSON leaves open which of two equal keys counts; a cheap look finds the lines to parse again."""
        turns = len(getattr(values, "messages", ()))
        marks = (*self._once_marks, (b'"role"', turns), (b'"content"', turns))
        escaped = b"\\u00" in data and _ESCAPED_KEY_CHARACTER.search(data) is not None
        if escaped or any(data.count(mark) > at_most for mark, at_most in marks):
            try:
                row = json.loads(data, object_pairs_hook=_Pairs, parse_int=str)
            except (RecursionError, ValueError) as error:
                raise Rejection(Rule.INVALID_JSON, f"it cannot be told whether a key is there twice: {error}") from None
            _refuse_twice(row, self._spec.columns)

    def _metadata(self, values: Any) -> tuple[str | None, _Metadata]:
        """The row's metadata with the schema's other columns, as JSON, and what of it rules look at."""
        others = {name: value for name in self._others if (value := getattr(values, name)) is not UNSET}
        text = b"null" if values.metadata is UNSET else bytes(values.metadata)
        if text == b"null":
            if not others:
                return None, _Metadata()
            text = b"{}"
        try:
            named = _METADATA.decode(text)
            if others:
                text = msgspec.json.encode({**others, **_OBJECT.decode(text)})
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Rejection(Rule.WRONG_TYPE, f"metadata: {error}"[:EXCERPT_BYTES]) from None
        return text.decode("utf-8"), named


def completion_turns(text: str) -> list[Message]:
    """A completion as a conversation: one turn, the assistant's."""
    return [Message("assistant", text)]


def content_sha256(row: Row, kind: str) -> str:
    """Identity of what is trained: sha256 of the sorted, compact JSON of the row's messages or text.

    The metadata is left out, so the same row from two generators is the same row.
    """
    content = {"messages": row.messages} if kind == "chat_sft" else {"text": row.text}
    return hashlib.sha256(_CANONICAL.encode(content)).hexdigest()


_ESCAPED_KEY_CHARACTER = re.compile(rb"\\u00(?:5[fF]|6[0-9a-fA-F]|7[0-9aA])")
"""One of `_a-z` in an escape: a key that is written so is not seen by a count."""
_METADATA = msgspec.json.Decoder(_Metadata)
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_RAW_MESSAGES = msgspec.json.Decoder(list[dict[str, Raw]])
_CANONICAL = msgspec.json.Encoder(order="sorted")


def _row_type(spec: DatasetSpec, message: type, *, strict: bool) -> type[msgspec.Struct]:
    types: dict[str, Any] = {"messages": list[message], "text": str, "system_prompt": str | None}  # type: ignore[valid-type]
    fields: list[Any] = [(column, types[column]) for column in spec.required_columns]
    for column in spec.optional_columns:
        known = types.get(column)
        fields.append((column, Raw | UnsetType, UNSET) if known is None else (column, known, None))
    return msgspec.defstruct(spec.id, fields, forbid_unknown_fields=strict)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, equal keys included."""

    def get(self, key: str) -> Any:
        return next((value for name, value in self if name == key), None)


def _refuse_twice(row: Any, columns: frozenset[str]) -> None:
    """Refuse a row with a key of meaning twice in one object; what else metadata holds is its maker's."""
    messages = row.get("messages")
    checked = [(row, columns), (row.get("metadata"), frozenset({"problem_key"}))]
    checked += [(message, frozenset({"role", "content"})) for message in messages or ()]
    for pairs, keys in checked:
        if isinstance(pairs, _Pairs):
            counts = Counter(key for key, _ in pairs)
            if twice := [key for key in sorted(keys) if counts[key] > 1]:
                raise Rejection(Rule.DUPLICATE_KEY, f"key {name_list(twice)} is there twice in one object")


def read_object(data: bytes) -> dict[str, Raw]:
    """A JSON object, its values unparsed.

    Raises:
        Rejection: if it is none.
    """
    try:
        return _OBJECT.decode(data)
    except msgspec.ValidationError as error:
        raise Rejection(Rule.NOT_AN_OBJECT, f"{error}: {quote_bytes(data)}") from None
    except msgspec.MsgspecError as error:
        raise Rejection(Rule.INVALID_JSON, f"{error}: {quote_bytes(data)}") from None
    except RecursionError:
        raise Rejection(Rule.INVALID_JSON, f"nested too deeply: {quote_bytes(data)}") from None


def _unknown_message_keys(raw: Raw) -> list[str]:
    keys = {key for message in _RAW_MESSAGES.decode(raw) for key in message}
    return [f"messages[].{key}" for key in sorted(keys - {"role", "content"})]


def _with_system_prompt(messages: list[Message], system_prompt: str | None) -> list[Message]:
    """The column is the conversation's first turn, written otherwise."""
    if system_prompt is None:
        return messages
    if messages and messages[0].role == "system":
        if messages[0].content != system_prompt:
            raise Rejection(Rule.ROLE_ORDER, "the row has a system turn and another system_prompt; keep one of them")
        return messages
    return [Message("system", system_prompt), *messages]


def _peeked(reader: LineReader, max_row_bytes: int) -> Iterator[Line]:
    return (line for line in islice(reader.lines(max_row_bytes), PEEKED_ROWS) if line.data.strip())
