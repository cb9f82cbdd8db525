"""Files that nobody wrote by hand: each is read to its end, and every line is counted once."""

import json
import resource

import polars as pl
import pytest

from gpu_assets.errors import DatasetInvalid
from validators import DATASET_SPECS, DataValidator, Rule

GOOD = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
SPEC = DATASET_SPECS["chat_sft_v1"]


@pytest.fixture
def validate_bytes(renderer, tmp_path):
    def validate_bytes(data, spec=SPEC):
        path = tmp_path / "hostile.jsonl"
        path.write_bytes(data)
        validated = DataValidator(renderer).validate_rows(path, spec)
        report = validated.report
        assert report.accepted + report.rejected + report.blank_lines == report.lines
        assert report.lines == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
        assert [row.line for row in validated.rejected] == sorted({row.line for row in validated.rejected})
        json.dumps([report.to_json(), [row.to_row() for row in validated.rejected]], allow_nan=False)
        return validated

    return validate_bytes


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r\r\n", b" \n"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_and_a_missing_last_one_change_nothing(validate_bytes, end, last):
    report = validate_bytes(end.join([GOOD] * 3) + (end if last else b"")).report

    assert (report.valid, report.accepted, report.problems) == (True, 3, ())


def test_a_parquet_file_with_a_wrong_name_is_called_by_its_name(validate_bytes, tmp_path):
    parquet = tmp_path / "a.parquet"
    pl.DataFrame({"messages": [GOOD.decode()] * 1000}).write_parquet(parquet)
    report = validate_bytes(parquet.read_bytes()).report

    assert not report.valid
    assert report.problems[0].rule is Rule.NOT_TEXT
    assert "it looks like Parquet" in report.headline()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(validate_bytes, encoding):
    data = "\n".join([GOOD.decode().replace("a", "é日")] * 50).encode(encoding)

    assert not validate_bytes(data).report.valid


def test_latin_1_in_most_lines_is_a_file_that_is_not_utf8(validate_bytes):
    latin = GOOD.replace(b'"a"', b'"caf\xe9"')
    report = validate_bytes(b"\n".join([latin] * 3 + [GOOD] * 2)).report

    assert report.problems[0].rule is Rule.NOT_TEXT
    assert "3 of 5 lines are not UTF-8" in report.headline()
    one = validate_bytes(b"\n".join([latin] + [GOOD] * 20)).report
    assert one.valid
    assert one.rejected_by_rule() == {"not_utf8": 1}


def test_a_line_of_50_mb_is_rejected_without_being_held(renderer, tmp_path):
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'\n{"messages": "')
        file.seek(50 * 2**20, 1)
        file.write(b'"}\n' + GOOD + b"\n")
    warm = tmp_path / "warm.jsonl"
    warm.write_bytes(GOOD + b"\n")
    DataValidator(renderer).validate_rows(warm, SPEC)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    validated = DataValidator(renderer).validate_rows(path, SPEC)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert validated.accepted["line"].to_list() == [1, 3]
    (rejected,) = validated.rejected
    assert rejected.reason is Rule.ROW_TOO_LONG
    assert "52,428,816 bytes" in rejected.detail
    assert len(rejected.excerpt) <= 200
    assert grown_kib < 48 * 1024


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        GOOD[:-1] + b', "metadata": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        GOOD[:-1] + b', "metadata": ' + b'{"role":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        GOOD[:-1] + b', "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        GOOD.replace(b'"b"', b'{"x":' * 100_000 + b"1" + b"}" * 100_000),
    ],
)
def test_deep_nesting_rejects_its_row_alone(validate_bytes, line):
    validated = validate_bytes(b"\n".join([GOOD, line, GOOD]))

    assert validated.accepted["line"].to_list() == [1, 3]
    assert len(validated.rejected[0].detail) < 400


@pytest.mark.parametrize("digits", [20, 400, 5000, 100_000])
def test_huge_integers_are_metadata_like_any_other(validate_bytes, digits):
    number = b"7" * digits
    validated = validate_bytes(GOOD[:-1] + b', "metadata": {"n": ' + number + b'}, "difficulty": ' + number + b"}")

    assert validated.report.accepted == 1
    assert number.decode() in validated.accepted["metadata"][0]


@pytest.mark.parametrize(
    "data", [b"\x00" * 5000, b"\xff" * 5000, b"\n" * 1000, b"\r" * 1000, b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"]
)
def test_files_of_one_byte_over_and_over_are_refused(validate_bytes, data):
    assert not validate_bytes(data).report.valid


@pytest.mark.parametrize("name", ["", "none.jsonl", "a" * 300 + ".jsonl"])
def test_what_cannot_be_read_is_refused_with_a_sentence(renderer, tmp_path, name):
    with pytest.raises(DatasetInvalid, match="not a regular file|cannot be read"):
        DataValidator(renderer).validate_file(tmp_path / name, SPEC)
