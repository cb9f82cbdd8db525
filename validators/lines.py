"""Files to lines, in bounded memory: JSONL as it is, or compressed with gzip or Zstandard.

Knows bytes and line ends, nothing of JSON.
"""

import codecs
import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

from gpu_assets.errors import DatasetInvalid

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK_BYTES = 2 * 2**20
EXCERPT_BYTES = 200
HEAD_BYTES = 8
COMPRESSED_FORMATS = {"gzip": ".gz", "Zstandard": ".zst"}
COMPRESSED_SUFFIXES = tuple(COMPRESSED_FORMATS.values())
_SKIP_BYTES = 2**20
_Bytes: TypeAlias = "io.BufferedReader[Any]"
FOREIGN_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "Parquet"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"PK\x03\x04", "a zip archive or spreadsheet"),
    (b"ARROW1", "Arrow"),
    (codecs.BOM_UTF16_LE, "UTF-16 text"),
    (codecs.BOM_UTF16_BE, "UTF-16 text"),
)


class Unreadable(DatasetInvalid):
    """A file cannot be opened, or not be read to its end: nothing can be said of its rows."""


class Line(NamedTuple):
    """A line without its end; `number` counts from 1, and of one over the cap `data` may be only the beginning."""

    number: int
    data: bytes
    size: int


@dataclass
class Chunk:
    """Whole lines as one piece; `skipped` bytes of the last one, which is over the cap, were not kept.

    Who has counted the lines may say so in `counted`.
    """

    first_number: int
    data: bytes
    skipped: int = 0
    counted: int | None = None

    def lines(self) -> list[Line]:
        """Every line, without its line end. What follows the last line feed is a line unless it is empty."""
        parts = self.data.removesuffix(b"\n").split(b"\n")
        lines = [
            Line(number, content := part.rstrip(b"\r"), len(content))
            for number, part in enumerate(parts, self.first_number)
        ]
        if self.skipped:
            number, data, size = lines[-1]
            lines[-1] = Line(number, data[:EXCERPT_BYTES], size + self.skipped)
        return lines

    def pick(self, indexes: Iterable[int]) -> Iterator[Line]:
        """Some of `lines()`, by their places in ascending order; faster than all where they are few."""
        if self.skipped:
            lines = self.lines()
            yield from (lines[index] for index in indexes)
            return
        begin = at = 0
        for index in indexes:
            while at < index:
                begin = self.data.index(b"\n", begin) + 1
                at += 1
            end = self.data.find(b"\n", begin)
            content = self.data[begin : end if end >= 0 else None].rstrip(b"\r")
            yield Line(self.first_number + index, content, len(content))

    def without(self, numbers: Collection[int]) -> bytes:
        """The lines as they were, ends included, but for these."""
        if not numbers:
            return self.data
        lines = self.data.split(b"\n")
        kept = [line + b"\n" for number, line in enumerate(lines[:-1], self.first_number) if number not in numbers]
        last = lines[-1] if self.first_number + len(lines) - 1 not in numbers else b""
        return b"".join(kept) + last

    def count(self) -> int:
        """How many lines there are."""
        return self.counted if self.counted is not None else self.data.count(b"\n") + (not self.data.endswith(b"\n"))


class LineReader:
    """One file, open for reading its lines once; decompressed if its name ends in `.gz` or `.zst`.

    `name` is what sentences call it, the path unless given.

    Raises:
        Unreadable: if it is no regular file or cannot be opened; from its methods, if it cannot be read
            or decompressed to its end.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self._name = name or str(path)
        with self._named_errors():
            if path.exists() and not path.is_file():
                raise Unreadable(f"{self._name} is not a regular file; a dataset is one JSONL file")
            self._raw = io.BufferedReader(io.FileIO(path), 2**16)
            self._file = _decompressed(self._raw, path.suffix)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._raw.close()

    def head(self, size: int = HEAD_BYTES) -> bytes:
        """The first bytes, which are read again with the first chunk; of a compressed file maybe fewer."""
        with self._named_errors():
            return self._file.peek(size)[:size]

    def chunks(self, max_row_bytes: int) -> Iterator[Chunk]:
        """The lines in chunks of about 2 MiB; of a line over `max_row_bytes` no more than that is ever held.

        A byte order mark is part of the first line.
        """
        number = 1
        while chunk := self._read_chunk(number, max_row_bytes):
            yield chunk
            number += chunk.count()

    def lines(self, max_row_bytes: int) -> Iterator[Line]:
        """Every line, in order."""
        for chunk in self.chunks(max_row_bytes):
            yield from chunk.lines()

    def sha256(self) -> str:
        """Hex digest of the content, decompressed, so that a compressed copy is the same; reads to the end."""
        with self._named_errors():
            return hashlib.file_digest(self._file, "sha256").hexdigest()

    def _read_chunk(self, number: int, max_row_bytes: int) -> Chunk | None:
        with self._named_errors():
            data, skipped = self._file.read(CHUNK_BYTES), 0
            if data and not data.endswith(b"\n"):
                tail = self._file.readline(max_row_bytes + 2)
                data += tail
                if len(tail) == max_row_bytes + 2 and not tail.endswith(b"\n"):
                    skipped = _skip_line(self._file)
        return Chunk(number, data, skipped) if data else None

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError) as error:
            raise Unreadable(f"{self._name} cannot be decompressed to its end: {error}; compress it again") from None
        except OSError as error:
            raise Unreadable(f"{self._name} cannot be read: {error.strerror or error}") from None


def foreign_format(head: bytes) -> str | None:
    """What a file that is not text is, by its first bytes."""
    return next((name for magic, name in FOREIGN_FORMATS if head.startswith(magic)), None)


def _decompressed(file: _Bytes, suffix: str) -> _Bytes:
    if suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=file), 2**20)
    if suffix == ".zst":
        return io.BufferedReader(zstd.ZstdFile(file), 2**20)
    return file


def _skip_line(file: _Bytes) -> int:
    """Read on to the next line; how many bytes were left of this one, its line end not counted."""
    skipped = 0
    while part := file.readline(_SKIP_BYTES):
        if part.endswith(b"\n"):
            return skipped + len(part.rstrip(b"\r\n"))
        skipped += len(part)
    return skipped
