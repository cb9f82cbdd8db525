import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import PROJECT_ROOT
from validators.history import NO_PROMPT, Entries, Place, RowHistory
from validators.shingles import NUM_PERMUTATIONS, band_keys, estimate_similarity

KEYS = ("a", "b", "c")
WRITER = """
import sys
from pathlib import Path
import numpy as np
from validators.history import Entries, RowHistory

generator = np.random.default_rng(int(sys.argv[2]))
with RowHistory.open(Path(sys.argv[1]), read_only=False) as history:
    print("open", flush=True)
    for turn in range(10**6):
        count = int(generator.integers(1, 3000))
        texts = np.full(count, count)
        signatures = generator.integers(0, 256, (count, 128), np.uint8)
        history.replace(f"dataset-{turn % 3}", Entries(np.arange(1, count + 1), texts, texts, signatures))
"""


def pool() -> np.ndarray:
    """Six signatures, two families of three; within a family about 0.9 alike."""
    generator = np.random.default_rng(5)
    families = generator.integers(0, 256, (2, 1, NUM_PERMUTATIONS), np.uint8).repeat(3, axis=1).reshape(6, -1)
    for place, signature in enumerate(families):
        signature[place * 12 : place * 12 + 8] ^= 1
    return families


POOL = pool()


def make_entries(*rows: tuple[int, int, int]) -> Entries:
    """(prompt, answer, place of the signature in the pool); lines count from 1."""
    prompts, answers, places = (np.array([row[column] for row in rows], np.int64) for column in range(3))
    return Entries(np.arange(1, len(rows) + 1), prompts, answers, POOL[places])


class Model:
    """The history as a list that is searched from its beginning."""

    def __init__(self) -> None:
        self.datasets: dict[str, Entries] = {}

    def replace(self, key: str, entries: Entries) -> None:
        self.datasets.pop(key, None)
        if len(entries):
            self.datasets[key] = entries

    def rows(self, excluding: str):
        for key, entries in self.datasets.items():
            if key != excluding:
                for index in range(len(entries)):
                    yield Place(key, int(entries.lines[index])), entries.take(slice(index, index + 1))

    def exact(self, row: Entries, excluding: str) -> Place | None:
        same = (place for place, one in self.rows(excluding) if text(one) == text(row))
        return next(same, None)

    def conflicts(self, row: Entries, excluding: str) -> set[Place]:
        prompt, answer = text(row)
        if prompt == NO_PROMPT:
            return set()
        return {place for place, one in self.rows(excluding) if text(one)[0] == prompt and text(one)[1] != answer}

    def near(self, row: Entries, least: float, excluding: str) -> tuple[Place, float] | None:
        best = None
        zero = np.array([0])
        for place, one in self.rows(excluding):
            similarity = float(estimate_similarity(row.signatures, zero, one.signatures, zero)[0])
            meet = (band_keys(row.signatures) == band_keys(one.signatures)).any()
            if meet and similarity >= least and (best is None or similarity > best[1]):
                best = place, similarity
        return best


def text(row: Entries) -> tuple[int, int]:
    return int(row.prompts[0]), int(row.answers[0])


row_lists = st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 1), st.integers(0, 5)), max_size=5)
steps = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | row_lists), max_size=8)


@settings(max_examples=60, deadline=None)
@given(steps, row_lists, st.sampled_from((*KEYS, "unknown")), st.sampled_from((0.7, 0.9, 0.999)))
def test_after_any_replaces_and_forgets_the_lookups_are_those_of_a_searched_list(steps, rows, excluding, least):
    model = Model()
    with RowHistory.open(Path("nowhere/history.sqlite"), read_only=True) as history:
        history._read_only = False
        for key, wanted in steps:
            entries = make_entries(*wanted or ())
            model.replace(key, entries)
            history.forget(key) if wanted is None else history.replace(key, entries)

        queries = make_entries(*rows)
        exact = history.exact_duplicates(queries, excluding=excluding)
        conflicts = history.conflicting_answers(queries, excluding=excluding)
        near = history.near_duplicates(queries, least=least, excluding=excluding)

        assert history.datasets() == {key: len(entries) for key, entries in model.datasets.items()}
        assert list(history.datasets()) == list(model.datasets)
        for index in range(len(queries)):
            row = queries.take(slice(index, index + 1))
            assert exact.get(index) == model.exact(row, excluding)
            assert near.get(index) == model.near(row, least, excluding)
            known = model.conflicts(row, excluding)
            assert conflicts.get(index) in known if known else index not in conflicts
        assert_tables_agree(history._connection)


def assert_tables_agree(connection: sqlite3.Connection) -> None:
    """Every row has its conversation, its 18 bands and its dataset, and there are no others."""
    one = lambda query: connection.execute(query).fetchone()[0]  # noqa: E731
    rows = one("SELECT count(*) FROM row")
    assert rows == one("SELECT coalesce(sum(rows), 0) FROM dataset")
    assert rows == one("SELECT count(*) FROM row JOIN conversation c ON c.row = id AND c.answer = row.answer")
    assert rows == one("SELECT count(*) FROM conversation")
    assert 18 * rows == one("SELECT count(*) FROM band") == one("SELECT count(*) FROM band JOIN row ON id = band.row")


def test_what_was_accepted_is_there_when_the_store_is_opened_again(tmp_path: Path):
    path = tmp_path / "history.sqlite"
    with RowHistory.open(path, read_only=False) as history:
        history.replace("a", make_entries((1, 2, 0)))

    with RowHistory.open(path, read_only=True) as history:
        assert len(history) == 1
        assert history.exact_duplicates(make_entries((1, 2, 3)), excluding="b") == {0: Place("a", 1)}


def test_a_missing_store_that_is_only_read_is_empty_and_is_not_made(tmp_path: Path):
    with RowHistory.open(tmp_path / "history.sqlite", read_only=True) as history:
        assert len(history) == 0
        assert history.near_duplicates(make_entries((1, 2, 0)), least=0.7, excluding="") == {}

    assert not list(tmp_path.iterdir())


def test_a_store_that_is_only_read_is_not_written(tmp_path: Path):
    path = tmp_path / "history.sqlite"
    RowHistory.open(path, read_only=False).close()

    with RowHistory.open(path, read_only=True) as history, pytest.raises(AssertionError, match="read only"):
        history.forget("a")


def test_a_reader_sees_what_was_there_while_the_writer_is_at_work(tmp_path: Path):
    path = tmp_path / "history.sqlite"
    with RowHistory.open(path, read_only=False) as writer, RowHistory.open(path, read_only=True) as reader:
        writer.replace("a", make_entries((1, 2, 0)))
        with writer._writing():
            writer._remove("a")
            assert reader.datasets() == {"a": 1}
        assert reader.datasets() == {}


def test_a_failed_replace_leaves_the_dataset_as_it_was(tmp_path: Path):
    with RowHistory.open(tmp_path / "history.sqlite", read_only=False) as history:
        history.replace("a", make_entries((1, 2, 0)))
        broken = Entries(np.array([1, 2]), np.array([1]), np.array([1]), POOL[:2])
        with pytest.raises((ValueError, IndexError)):
            history.replace("a", broken)

        assert history.exact_duplicates(make_entries((1, 2, 0)), excluding="") == {0: Place("a", 1)}
        assert_tables_agree(history._connection)


def test_rows_without_signatures_are_found_as_the_same_and_as_conflicts_only(tmp_path: Path):
    signed = make_entries((1, 2, 0), (3, 4, 1))
    unsigned = Entries(signed.lines, signed.prompts, signed.answers, signed.signatures[:, :0])
    with RowHistory.open(tmp_path / "history.sqlite", read_only=False) as history:
        history.replace("a", unsigned)
        assert history.exact_duplicates(signed, excluding="") == {0: Place("a", 1), 1: Place("a", 2)}
        assert history.conflicting_answers(make_entries((1, 9, 0)), excluding="") == {0: Place("a", 1)}
        assert history.near_duplicates(signed, least=0.5, excluding="") == {}

        history.replace("a", signed)
        history.replace("a", unsigned)
        assert history.near_duplicates(signed, least=0.99, excluding="").keys() == {0, 1}, "the signatures stayed"
        history.replace("a", unsigned.take(slice(0, 1)))
        assert history.near_duplicates(signed, least=0.5, excluding="") == {}
        assert history.datasets() == {"a": 1}


def test_a_store_of_another_format_is_refused_by_its_number(tmp_path: Path):
    path = tmp_path / "history.sqlite"
    with RowHistory.open(path, read_only=False) as history:
        history._connection.execute("PRAGMA user_version = 7")

    for read_only in (True, False):
        with pytest.raises(ArtifactInvalid, match=r"history.sqlite is of format 7; .* format 1; move it away"):
            RowHistory.open(path, read_only=read_only)


def test_another_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE cakes (name)")
    other.close()

    with pytest.raises(ArtifactInvalid, match="another SQLite database"):
        RowHistory.open(path, read_only=False)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    path = tmp_path / "history.sqlite"
    path.write_text("no database at all\n" * 100)

    with pytest.raises(ArtifactInvalid, match="cannot be opened"):
        RowHistory.open(path, read_only=True)


def test_thousands_of_rows_under_one_band_key_are_not_all_looked_at():
    with RowHistory.open(Path("nowhere/history.sqlite"), read_only=True) as history:
        history._read_only = False
        history.replace("a", make_entries(*[(1, 1, 0)] * 500))

        queries, rows = history._meetings(band_keys(POOL[:1]), "")

    assert set(queries.tolist()) == {0}
    assert len(set(rows.tolist())) == 64


@pytest.mark.parametrize("seed", range(6))
def test_a_writer_killed_at_any_moment_leaves_each_dataset_whole(tmp_path: Path, seed: int):
    path = tmp_path / "history.sqlite"
    moments = random.Random(seed)
    for attempt in range(2):
        command = [sys.executable, "-c", WRITER, str(path), str(10 * seed + attempt)]
        writer = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE)
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            time.sleep(moments.uniform(0.0, 0.6))
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()

        with RowHistory.open(path, read_only=True) as history:
            assert_whole(history)
    with RowHistory.open(path, read_only=False) as history:
        assert_whole(history)
        history.replace("after", make_entries((1, 2, 0)))
        assert history.datasets()["after"] == 1


def assert_whole(history: RowHistory) -> None:
    """The writer gives all rows of a dataset the dataset's size as their prompt."""
    assert history._connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    assert_tables_agree(history._connection)
    sizes = dict(history._connection.execute("SELECT prompt, count(*) FROM row GROUP BY prompt"))
    for size in set(history.datasets().values()):
        assert sizes[size] % size == 0
