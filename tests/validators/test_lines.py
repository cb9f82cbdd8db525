import gzip
import hashlib
import os

import pytest
from backports import zstd

from gpu_assets.errors import DatasetInvalid
from validators import lines as lines_module
from validators.lines import Chunk, LineReader


@pytest.fixture
def lines(tmp_path):
    def lines(data, cap=10):
        path = tmp_path / "a.jsonl"
        path.write_bytes(data)
        with LineReader(path) as reader:
            return [(number, data[:12], size) for number, data, size in reader.lines(cap)]

    return lines


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a", [(1, b"a", 1)]),
        (b"a\n", [(1, b"a", 1)]),
        (b"a\nb", [(1, b"a", 1), (2, b"b", 1)]),
        (b"a\r\nb\r\n", [(1, b"a", 1), (2, b"b", 1)]),
        (b"\n\n", [(1, b"", 0), (2, b"", 0)]),
        (b"0123456789\r\nb", [(1, b"0123456789", 10), (2, b"b", 1)]),
        (b"0123456789ab\nc", [(1, b"0123456789ab", 12), (2, b"c", 1)]),
        (b"x" * 5000 + b"\nc\n", [(1, b"x" * 12, 5000), (2, b"c", 1)]),
        (b"x" * 5000, [(1, b"x" * 12, 5000)]),
        ("\u2028\x85\x0b\n".encode(), [(1, "\u2028\x85\x0b".encode(), 6)]),
    ],
)
def test_lines_end_with_a_line_feed_and_nothing_else(lines, data, expected):
    assert lines(data) == expected


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64])
def test_where_chunks_end_changes_no_line(lines, monkeypatch, chunk_bytes):
    data = b"".join(b"x" * size + b"\r\n" for size in (0, 3, 12, 13, 40, 1, 200)) + b"end"
    whole = lines(data, cap=12)
    monkeypatch.setattr(lines_module, "CHUNK_BYTES", chunk_bytes)

    in_parts = lines(data, cap=12)
    assert [(number, size) for number, _, size in in_parts] == [(number, size) for number, _, size in whole]
    assert [data for _, data, size in in_parts if size <= 12] == [data for _, data, size in whole if size <= 12]


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstd.compress)])
def test_compressed_files_are_read_and_truncated_ones_are_named(tmp_path, suffix, compress):
    data = os.urandom(300_000).hex().encode()
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(b"a\n" + data) + compress(b"\nb\n"))
    with LineReader(path) as reader:
        assert [line.size for line in reader.lines(10**6)] == [1, 600_000, 1]

    path.write_bytes(compress(data)[:-1000])
    with LineReader(path) as reader, pytest.raises(DatasetInvalid, match="cannot be decompressed to its end"):
        list(reader.lines(10**6))
    path.write_bytes(b"this is text")
    with LineReader(path) as reader, pytest.raises(DatasetInvalid, match="cannot be decompressed to its end"):
        list(reader.lines(10**6))


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in (("", "not a regular file"), ("pipe", "not a regular file"), ("none", "No such file")):
        with pytest.raises(DatasetInvalid, match=sentence):
            LineReader(tmp_path / name)
    with pytest.raises(DatasetInvalid, match="File name too long"):
        LineReader(tmp_path / ("a" * 300))


@pytest.mark.parametrize("data", [b"", b"a", b"a\n", b"a\r\nb\n", b"a\n\nb", b"\n", b"\r\n\r"])
def test_a_chunk_without_some_lines_keeps_the_others_byte_for_byte(data):
    ends = [part + b"\n" for part in data.split(b"\n")[:-1]] + [last for last in data.split(b"\n")[-1:] if last]
    chunk = Chunk(5, data)

    for left_out in range(2 ** len(ends)):
        numbers = {5 + place for place in range(len(ends)) if left_out >> place & 1}
        kept = [line for place, line in enumerate(ends) if 5 + place not in numbers]
        assert chunk.without(numbers) == b"".join(kept)


@pytest.mark.parametrize("data", [b"", b"a", b"a\n", b"a\r\nb\n", b"a\n\nb", b"\n", b"\r\n\r"])
@pytest.mark.parametrize("skipped", [0, 7])
def test_some_lines_of_a_chunk_are_those_of_all_its_lines(data, skipped):
    chunk = Chunk(5, data, skipped)
    lines = chunk.lines()

    for picked in range(2 ** len(lines)):
        indexes = [place for place in range(len(lines)) if picked >> place & 1]
        assert list(chunk.pick(indexes)) == [lines[place] for place in indexes]


def test_a_compressed_copy_has_the_same_sha256(tmp_path) -> None:
    content = b'{"text": "x"}\n' * 100_000
    written = {"rows.jsonl": content, "rows.jsonl.gz": gzip.compress(content), "rows.jsonl.zst": zstd.compress(content)}
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
        with LineReader(tmp_path / name) as reader:
            assert reader.sha256() == hashlib.sha256(content).hexdigest()


def test_the_sha256_of_what_cannot_be_decompressed_is_a_sentence(tmp_path) -> None:
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"row\n" * 1000)[:-9])
    with (
        LineReader(tmp_path / "torn.gz") as reader,
        pytest.raises(DatasetInvalid, match="torn.gz cannot be decompressed"),
    ):
        reader.sha256()
