"""Everything ever accepted, row by row, on disk: which dataset and line has this row, this prompt, or nearly this.

One SQLite file in WAL mode: one writer, any readers; a dataset's rows come and go in one transaction,
so a killed writer leaves each dataset wholly there or wholly as before. Rows are known by hashes only;
no text is kept. The ids of a dataset's rows follow one another, and keys are written and looked up in
their own order, so a large batch sweeps each tree once.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gpu_assets.errors import ArtifactInvalid
from validators.shingles import (
    BANDS,
    NUM_PERMUTATIONS,
    Signatures,
    band_keys,
    estimate_similarity,
    expand,
    sorted_distinct,
)

FORMAT = 1
"""Of the tables, the text hashes and the signatures (rensa's R-MinHash, algorithm version 2)."""
APPLICATION_ID = 0x67706168
NO_PROMPT = 0
"""The prompt hash of rows that have none; these never conflict."""
BUCKET_LIMIT = 64
"""Rows looked at under one band key: rows from one template meet under the same keys by thousands."""
BUSY_TIMEOUT_S = 60.0
_CACHE_KIB = 32 * 1024
_ROWS_AT_ONCE = 4096

_SCHEMA = (
    "CREATE TABLE dataset (key TEXT PRIMARY KEY, first_row INTEGER NOT NULL UNIQUE, rows INTEGER NOT NULL)",
    "CREATE TABLE row (id INTEGER PRIMARY KEY, line INTEGER NOT NULL, prompt INTEGER NOT NULL,"
    " answer INTEGER NOT NULL, signature BLOB NOT NULL)",
    "CREATE TABLE conversation (prompt INTEGER, answer INTEGER, row INTEGER, PRIMARY KEY (prompt, answer, row))"
    " WITHOUT ROWID",
    "CREATE TABLE band (key INTEGER, row INTEGER, PRIMARY KEY (key, row)) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
_WANTED = (
    "CREATE TEMP TABLE wanted (key INTEGER PRIMARY KEY)",
    "CREATE TEMP TABLE wanted_conversation (prompt INTEGER, answer INTEGER, PRIMARY KEY (prompt, answer))"
    " WITHOUT ROWID",
)
_EXACT = """
    SELECT * FROM (
        SELECT prompt, answer, (
            SELECT row FROM conversation AS c
            WHERE c.prompt = w.prompt AND c.answer = w.answer AND row NOT BETWEEN ? AND ?
            ORDER BY row LIMIT 1
        ) AS found FROM wanted_conversation AS w
    ) WHERE found IS NOT NULL"""
_OUTERMOST_ANSWERS = """
    SELECT * FROM (
        SELECT key, (
            SELECT row FROM conversation WHERE prompt = key AND row NOT BETWEEN ?1 AND ?2
            ORDER BY answer, row LIMIT 1
        ) AS least, (
            SELECT row FROM conversation WHERE prompt = key AND row NOT BETWEEN ?1 AND ?2
            ORDER BY answer DESC, row DESC LIMIT 1
        ) AS greatest FROM wanted
    ) WHERE least IS NOT NULL"""
_BUCKETS = f"""
    SELECT * FROM (
        SELECT key, (
            SELECT group_concat(row) FROM (
                SELECT row FROM band WHERE band.key = wanted.key AND row NOT BETWEEN ? AND ?
                ORDER BY row LIMIT {BUCKET_LIMIT}
            )
        ) AS bucket FROM wanted ORDER BY key
    ) WHERE bucket IS NOT NULL"""
_PLACES = """
    SELECT id, (SELECT key FROM dataset WHERE first_row <= id ORDER BY first_row DESC LIMIT 1), line
    FROM wanted CROSS JOIN row ON id = wanted.key"""


class Place(NamedTuple):
    """Where an accepted row is; `line` counts from 1."""

    dataset: str
    line: int

    def __str__(self) -> str:
        return f"line {self.line} of dataset {self.dataset}"


@dataclass(frozen=True, slots=True)
class Entries:
    """What the history knows of rows, as columns of equal length: line, text hashes, signature.

    Where nobody signed the rows, all signatures are of length 0.
    """

    lines: NDArray[np.int64]
    prompts: NDArray[np.int64]
    answers: NDArray[np.int64]
    signatures: Signatures

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def has_signatures(self) -> bool:
        return bool(self.signatures.shape[1])

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_] | slice) -> "Entries":
        return Entries(self.lines[rows], self.prompts[rows], self.answers[rows], self.signatures[rows])


class RowHistory:
    """The store; a context manager. Lookups leave out one dataset's rows: those of the file being validated."""

    def __init__(self, connection: sqlite3.Connection, *, read_only: bool) -> None:
        """Takes an open store; use `open`."""
        self._connection = connection
        self._read_only = read_only
        for statement in _WANTED:
            connection.execute(statement)

    @classmethod
    def open(cls, path: Path, *, read_only: bool) -> Self:
        """The store at `path`; made if it is missing, or empty and nowhere if it is missing and only to be read.

        Raises:
            ArtifactInvalid: if the file is no history, or one of another format.
        """
        in_memory = read_only and not path.exists()
        uri = ":memory:" if in_memory else f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        try:
            connection = sqlite3.connect(uri, timeout=BUSY_TIMEOUT_S, isolation_level=None, uri=True)
            try:
                _prepare(connection, path, create=in_memory or not read_only)
            except BaseException:
                connection.close()
                raise
        except sqlite3.DatabaseError as error:
            raise ArtifactInvalid(
                f"the history of accepted rows {path} cannot be opened ({error}); "
                "if it is no SQLite file, move it away, and it is made anew"
            ) from None
        return cls(connection, read_only=read_only)

    @classmethod
    def empty(cls) -> Self:
        """A history of nothing, in memory."""
        return cls.open(Path(os.devnull) / "none", read_only=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def __len__(self) -> int:
        """Rows in all datasets."""
        return int(self._connection.execute("SELECT coalesce(sum(rows), 0) FROM dataset").fetchone()[0])

    def datasets(self) -> dict[str, int]:
        """Rows of each dataset, in the order of their acceptance."""
        return dict(self._connection.execute("SELECT key, rows FROM dataset ORDER BY first_row"))

    def replace(self, dataset_key: str, entries: Entries) -> None:
        """The dataset now has these rows and no others; one transaction.

        Rows without signatures are found as the same and as conflicts, never as nearly the same. If the dataset has
        these very rows already, their signatures stay.
        """
        with self._writing():
            if not entries.has_signatures and self._has(dataset_key, entries):
                return
            self._remove(dataset_key)
            if len(entries):
                self._add(dataset_key, entries)

    def forget(self, dataset_key: str) -> None:
        """The dataset has no rows any more; one transaction."""
        with self._writing():
            self._remove(dataset_key)

    def exact_duplicates(self, entries: Entries, *, excluding: str) -> dict[int, Place]:
        """By index in `entries`: the first accepted row with the same prompt and answer."""
        with self._reading():
            self._want_conversations(entries)
            rows = self._connection.execute(_EXACT, self._range(excluding))
            found = {(prompt, answer): row for prompt, answer, row in rows}
            pairs = enumerate(zip(entries.prompts.tolist(), entries.answers.tolist(), strict=True))
            return self._located({index: found[pair] for index, pair in pairs if pair in found} if found else {})

    def conflicting_answers(self, entries: Entries, *, excluding: str) -> dict[int, Place]:
        """By index in `entries`: an accepted row with the same prompt and another answer."""
        with self._reading():
            self._want(sorted_distinct(entries.prompts[entries.prompts != NO_PROMPT]))
            rows = self._connection.execute(_OUTERMOST_ANSWERS, self._range(excluding))
            found = {prompt: (least, greatest) for prompt, least, greatest in rows}
            if not found:
                return {}
            answers = self._answers({row for pair in found.values() for row in pair})
            conflicts = {}
            pairs = enumerate(zip(entries.prompts.tolist(), entries.answers.tolist(), strict=True))
            for index, (prompt, answer) in pairs:
                others = (row for row in found.get(prompt, ()) if answers[row] != answer)
                if (row := next(others, None)) is not None:
                    conflicts[index] = row
            return self._located(conflicts)

    def near_duplicates(self, entries: Entries, *, least: float, excluding: str) -> dict[int, tuple[Place, float]]:
        """By index in `entries`: the most similar accepted row and its estimated similarity, if that is `least`.

        Of equally similar rows the first accepted.
        """
        with self._reading():
            queries, rows = self._meetings(band_keys(entries.signatures), excluding)
            distinct, positions = np.unique(rows, return_inverse=True)
            similarity = estimate_similarity(entries.signatures, queries, self._signatures(distinct), positions)
            close = np.flatnonzero(similarity >= least)
            ordered = close[np.lexsort((rows[close], -similarity[close], queries[close]))]
            indexes, firsts = np.unique(queries[ordered], return_index=True)
            best = ordered[firsts]
            places = self._located(dict(zip(indexes.tolist(), rows[best].tolist(), strict=True)))
            return {index: (places[index], float(similarity[pair])) for index, pair in zip(places, best, strict=True)}

    def _meetings(self, keys: NDArray[np.int64], excluding: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of a row of `keys` and a row of the store that have a band in common; a pair may come twice."""
        self._want(sorted_distinct(keys))
        found = self._connection.execute(_BUCKETS, self._range(excluding)).fetchall()
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        known = np.array([key for key, _ in found])
        buckets = [bucket.split(",") for _, bucket in found]
        sizes = np.array([len(bucket) for bucket in buckets])
        rows = np.array([int(row) for bucket in buckets for row in bucket])
        flat = keys.ravel()
        nearest = np.minimum(np.searchsorted(known, flat), len(known) - 1)
        counts = np.where(known[nearest] == flat, sizes[nearest], 0)
        owners, positions = expand((np.cumsum(sizes) - sizes)[nearest], counts)
        return owners // BANDS, rows[positions]

    def _signatures(self, rows: NDArray[np.int64]) -> Signatures:
        self._want(rows)
        found = self._connection.execute("SELECT signature FROM wanted CROSS JOIN row ON id = wanted.key ORDER BY id")
        return np.frombuffer(b"".join(blob for (blob,) in found), np.uint8).reshape(-1, NUM_PERMUTATIONS)

    def _answers(self, rows: Iterable[int]) -> dict[int, int]:
        self._want(np.array(sorted(rows), np.int64))
        return dict(self._connection.execute("SELECT id, answer FROM wanted CROSS JOIN row ON id = wanted.key"))

    def _located(self, rows: dict[int, int]) -> dict[int, Place]:
        """The same keys with the place of each row."""
        if not rows:
            return {}
        self._want(sorted_distinct(np.fromiter(rows.values(), np.int64, len(rows))))
        places = {row: Place(dataset, line) for row, dataset, line in self._connection.execute(_PLACES)}
        return {index: places[row] for index, row in rows.items()}

    def _want(self, keys: NDArray[np.int64]) -> None:
        """Fill the table that the lookups are joined to; sorted, so that these sweep their tree."""
        self._connection.execute("DELETE FROM wanted")
        self._connection.executemany("INSERT INTO wanted VALUES (?)", zip(keys.tolist(), strict=True))

    def _want_conversations(self, entries: Entries) -> None:
        order = np.lexsort((entries.answers, entries.prompts))
        pairs = zip(entries.prompts[order].tolist(), entries.answers[order].tolist(), strict=True)
        self._connection.execute("DELETE FROM wanted_conversation")
        self._connection.executemany("INSERT OR IGNORE INTO wanted_conversation VALUES (?, ?)", pairs)

    def _range(self, dataset_key: str) -> tuple[int, int]:
        """First and last row id of a dataset; an empty range if it has no rows."""
        found = self._connection.execute("SELECT first_row, rows FROM dataset WHERE key = ?", (dataset_key,)).fetchone()
        return (found[0], found[0] + found[1] - 1) if found else (0, -1)

    def _has(self, dataset_key: str, entries: Entries) -> bool:
        """Whether the dataset's rows are these, whatever their signatures."""
        rows = self._connection.execute(
            "SELECT line, prompt, answer FROM row WHERE id BETWEEN ? AND ? ORDER BY id", self._range(dataset_key)
        )
        wanted = zip(entries.lines.tolist(), entries.prompts.tolist(), entries.answers.tolist(), strict=True)
        return rows.fetchall() == list(wanted)

    def _remove(self, dataset_key: str) -> None:
        first, last = self._range(dataset_key)
        if last < first:
            return
        run = self._connection.execute
        found = run("SELECT prompt, answer, signature FROM row WHERE id BETWEEN ? AND ? ORDER BY id", (first, last))
        prompts, answers, blobs = zip(*found, strict=True)
        signatures = np.frombuffer(b"".join(blobs), np.uint8).reshape(-1, NUM_PERMUTATIONS)
        rows = np.arange(first, last + 1)
        many = self._connection.executemany
        many("DELETE FROM band WHERE key = ? AND row = ?", _by_band(signatures, rows))
        conversations = sorted(zip(prompts, answers, rows.tolist(), strict=True))
        many("DELETE FROM conversation WHERE prompt = ? AND answer = ? AND row = ?", conversations)
        run("DELETE FROM row WHERE id BETWEEN ? AND ?", (first, last))
        run("DELETE FROM dataset WHERE key = ?", (dataset_key,))

    def _add(self, dataset_key: str, entries: Entries) -> None:
        run, many = self._connection.execute, self._connection.executemany
        first = run("SELECT coalesce(max(first_row + rows), 1) FROM dataset").fetchone()[0]
        run("INSERT INTO dataset VALUES (?, ?, ?)", (dataset_key, first, len(entries)))
        rows = np.arange(first, first + len(entries))
        many("INSERT INTO row VALUES (?, ?, ?, ?, ?)", _records(entries, rows))
        order = np.lexsort((entries.answers, entries.prompts))
        columns = (entries.prompts[order], entries.answers[order], rows[order])
        many("INSERT INTO conversation VALUES (?, ?, ?)", _tuples(*columns))
        if entries.has_signatures:
            many("INSERT INTO band VALUES (?, ?)", _by_band(entries.signatures, rows))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        assert not self._read_only, "the history was opened to be read only"
        with self._transaction("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One state of the store for all queries of a lookup."""
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._connection.execute(begin)
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _prepare(connection: sqlite3.Connection, path: Path, *, create: bool) -> None:
    """Set the connection up; make the tables in a file that has none."""
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if create:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")
        with closing(connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            if not cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _SCHEMA:
                    cursor.execute(statement)
            cursor.execute("COMMIT")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) != (APPLICATION_ID, FORMAT):
        what = f"of format {version}" if application == APPLICATION_ID else "no history but another SQLite database"
        raise ArtifactInvalid(
            f"{path} is {what}; this version reads histories of accepted rows of format {FORMAT}; "
            "move it away, and validate the datasets again to fill a new one"
        )


def _by_band(signatures: Signatures, rows: NDArray[np.int64]) -> Iterator[tuple[int, ...]]:
    """(key, row) of every band, in the order of the keys."""
    keys = band_keys(signatures).ravel()
    order = np.argsort(keys, kind="stable")
    return _tuples(keys[order], rows[order // BANDS])


def _tuples(*columns: NDArray[np.int64]) -> Iterator[tuple[int, ...]]:
    """Rows of Python integers, some thousands of them alive at a time."""
    for begin in range(0, len(columns[0]), _ROWS_AT_ONCE):
        yield from zip(*(column[begin : begin + _ROWS_AT_ONCE].tolist() for column in columns), strict=True)


def _records(entries: Entries, rows: NDArray[np.int64]) -> Iterator[tuple[object, ...]]:
    numbers = _tuples(rows, entries.lines, entries.prompts, entries.answers)
    for values, signature in zip(numbers, entries.signatures, strict=True):
        yield (*values, signature.tobytes())
