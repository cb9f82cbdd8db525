"""Lines of a JSONL file to typed rows, one line at a time and in bounded memory.

A line is decoded by one typed decoder per schema; only lines that it refuses are looked at again
to say why. Knows the shape of rows, not what makes their content good.
"""

import codecs
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gpu_assets.errors import DatasetInvalid
from validators.quoting import name_list, quote_bytes
from validators.report import Rule
from validators.spec import DatasetSpec

PEEKED_ROWS = 100
EXCERPT_BYTES = 200
FOREIGN_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "Parquet"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"PK\x03\x04", "a zip archive or spreadsheet"),
    (b"ARROW1", "Arrow"),
    (codecs.BOM_UTF16_LE, "UTF-16 text"),
    (codecs.BOM_UTF16_BE, "UTF-16 text"),
)
_SKIP_BYTES = 2**20


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn of a conversation; further keys are ignored."""

    role: str
    content: str


class _StrictMessage(Message, frozen=True, forbid_unknown_fields=True, gc=False):
    """Refuses further keys, so that they can be reported."""


class _Metadata(msgspec.Struct, frozen=True):
    problem_key: str | None = None


class Line(NamedTuple):
    """A line without its end; of one over the cap only the first bytes are in `data`."""

    number: int
    data: bytes
    size: int


class Row(NamedTuple):
    """A row of the right shape: `messages` of chat rows, `text` of completion rows.

    `metadata` is JSON and holds the schema's other columns too; `unknown_columns` were dropped.
    """

    line: Line
    messages: list[Message]
    text: str
    metadata: str | None
    problem_key: str | None
    unknown_columns: tuple[str, ...]


class Rejection(Exception):
    """A line is no row, or a row breaks a rule."""

    def __init__(self, rule: Rule, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule
        self.detail = detail


def open_lines(path: Path, name: str | None = None) -> BinaryIO:
    """The file, for `read_lines`; `name` is what sentences call it, the path unless given.

    Raises:
        DatasetInvalid: if it is no regular file, or cannot be opened.
    """
    try:
        if path.exists() and not path.is_file():
            raise DatasetInvalid(f"{name or path} is not a regular file; a dataset is one JSONL file")
        return path.open("rb", buffering=2**20)
    except OSError as error:
        raise DatasetInvalid(f"{name or path} cannot be read: {error.strerror}") from None


def read_lines(file: BinaryIO, max_row_bytes: int) -> Iterator[Line]:
    """Every line; no more than `max_row_bytes` of one are ever held.

    A byte order mark is part of the first line. What follows the last line end is a line unless
    it is empty.
    """
    number = 0
    limit = max_row_bytes + 2
    while data := file.readline(limit):
        number += 1
        if len(data) == limit and not data.endswith(b"\n"):
            rest = _skip_line(file)
            yield Line(number, data[:EXCERPT_BYTES], len(data) + rest)
        else:
            content = data.rstrip(b"\r\n")
            yield Line(number, content, len(content))


def foreign_format(head: bytes) -> str | None:
    """What a file that is not text is, by its first bytes."""
    return next((name for magic, name in FOREIGN_FORMATS if head.startswith(magic)), None)


def read_columns(path: Path, max_row_bytes: int, name: str | None = None) -> frozenset[str]:
    """The columns that at least half of the first 100 readable rows have; `name` as for `open_lines`.

    Raises:
        DatasetInvalid: if the file cannot be read, is empty, is not text, or none of its first
            100 lines is a JSON object.
    """
    counts: Counter[str] = Counter()
    objects = 0
    first_problem = None
    with open_lines(path, name) as file:
        head = file.peek(8)[:8] if hasattr(file, "peek") else b""
        if format_name := foreign_format(head):
            raise DatasetInvalid(
                f"{name or path} is not JSONL: it looks like {format_name}; export it as UTF-8 JSON lines"
            )
        for line in _peeked(file, max_row_bytes):
            try:
                check_line(line, max_row_bytes)
                counts.update(_read_object(line.data.removeprefix(codecs.BOM_UTF8)).keys())
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
        once = sorted(spec.columns | {"problem_key"})
        self._once_marks = [(f'"{key}"'.encode(), 1) for key in once]
        self._unique_keys = (*once, "role", "content")
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
        metadata, problem_key = self._metadata(values)
        return Row(line, messages, getattr(values, "text", ""), metadata, problem_key, unknown)

    def _decode_lenient(self, data: bytes) -> tuple[Any, tuple[str, ...]]:
        """The row without the columns that the schema does not know, and their names."""
        columns = _read_object(data)
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
        """JSON leaves open which of two equal keys counts; a cheap count finds the lines to parse again."""
        turns = len(getattr(values, "messages", ()))
        for mark, at_most in (*self._once_marks, (b'"role"', turns), (b'"content"', turns)):
            if data.count(mark) > at_most:
                with suppress(RecursionError, ValueError):
                    json.loads(data, object_pairs_hook=self._refuse_twice)
                return

    def _refuse_twice(self, pairs: list[tuple[str, Any]]) -> None:
        counts = Counter(key for key, _ in pairs)
        twice = [key for key in self._unique_keys if counts[key] > 1]
        if twice:
            raise Rejection(Rule.DUPLICATE_KEY, f"key {name_list(twice)} is there twice in one object")

    def _metadata(self, values: Any) -> tuple[str | None, str | None]:
        """The row's metadata with the schema's other columns, as JSON, and its problem key."""
        others = {name: value for name in self._others if (value := getattr(values, name)) is not UNSET}
        text = b"null" if values.metadata is UNSET else bytes(values.metadata)
        if text == b"null":
            if not others:
                return None, None
            text = b"{}"
        try:
            key = _METADATA.decode(text).problem_key
            if others:
                text = msgspec.json.encode({**others, **_OBJECT.decode(text)})
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Rejection(Rule.WRONG_TYPE, f"metadata: {error}"[:EXCERPT_BYTES]) from None
        return text.decode("utf-8"), key


def content_sha256(row: Row, kind: str) -> str:
    """Identity of what is trained: sha256 of the sorted, compact JSON of the row's messages or text.

    The metadata is left out, so the same row from two generators is the same row.
    """
    content = {"messages": row.messages} if kind == "chat_sft" else {"text": row.text}
    return hashlib.sha256(_CANONICAL.encode(content)).hexdigest()


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


def _read_object(data: bytes) -> dict[str, Raw]:
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


def _peeked(file: BinaryIO, max_row_bytes: int) -> Iterator[Line]:
    for number, line in enumerate(read_lines(file, max_row_bytes)):
        if number == PEEKED_ROWS:
            return
        if line.data.strip():
            yield line


def _skip_line(file: BinaryIO) -> int:
    """Read on to the next line; how many bytes were left of this one, its line feed not counted."""
    skipped = 0
    while chunk := file.readline(_SKIP_BYTES):
        if chunk.endswith(b"\n"):
            return skipped + len(chunk) - 1
        skipped += len(chunk)
    return skipped
