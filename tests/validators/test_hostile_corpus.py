"""Every file of `tests/data/hostile/` at every level: no crash, no hang, and every line counted once."""

import gzip
import json
from pathlib import Path

import pytest
from backports import zstd

from gpu_assets.errors import DatasetInvalid
from gpu_assets.settings import Validation
from tests.data.make_hostile import FOLDER, GOOD, hostile_files, line, row, slow_texts, write_long_line
from validators import DATASET_SPECS, DataValidator, Level, Limits, Rule, read_columns

FILES = hostile_files()
UNREADABLE = {name for name in FILES if name.startswith(("truncated", "wrong_checksum", "garbage", "not_packed"))}
LEVELS = [level.value for level in Level]
CHAT, COMPLETION = DATASET_SPECS["chat_sft_v1"], DATASET_SPECS["completion_v1"]


@pytest.fixture(scope="module")
def validator(renderer):
    return DataValidator(renderer, Limits(Validation(), 512))


def check(validator, path, spec, level):
    """The report, with and without a sink; the numbers agree with what a plain look at the file says."""
    validated = validator.validate_rows(path, spec, level)
    report = validated.report
    numbers = [*validated.accepted["line"].to_list(), *(rejected.line for rejected in validated.rejected)]
    assert len(set(numbers)) == len(numbers) == report.accepted + report.rejected
    assert report.lines == report.accepted + report.rejected + report.blank_lines == count_lines(path)
    assert sum(report.rejected_by_rule().values()) == report.rejected
    json.dumps([report.to_json(), [rejected.to_row() for rejected in validated.rejected]], allow_nan=False).encode()
    assert validator.validate_file(path, spec, level) == report
    return report


def count_lines(path: Path) -> int:
    data = path.read_bytes()
    if path.suffix in (".gz", ".zst"):
        data = gzip.decompress(data) if path.suffix == ".gz" else zstd.decompress(data)
    return data.count(b"\n") + (data != b"" and not data.endswith(b"\n"))


def test_the_corpus_is_what_its_script_makes():
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)
    for name, data in FILES.items():
        if not name.endswith((".gz", ".zst")) and name not in ("parquet.jsonl", "gzip.jsonl"):
            assert (FOLDER / name).read_bytes() == data, name


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", sorted(set(FILES) - UNREADABLE))
def test_accepted_and_rejected_and_blank_are_all_lines(validator, name, level):
    for spec in (CHAT, COMPLETION):
        check(validator, FOLDER / name, spec, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_what_cannot_be_read_to_its_end_is_refused_with_a_sentence(validator, name, level):
    with pytest.raises(DatasetInvalid, match=f"{name} cannot be decompressed to its end"):
        validator.validate_file(FOLDER / name, CHAT, level)


@pytest.mark.parametrize("name", sorted(FILES))
def test_columns_are_read_or_refused_with_a_sentence(name):
    try:
        assert read_columns(FOLDER / name, 4 * 2**20)
    except DatasetInvalid as refusal:
        assert name in str(refusal)
        assert len(str(refusal)) < 1000


@pytest.mark.parametrize("level", LEVELS)
def test_a_line_of_100_mb_is_one_rejected_row(validator, tmp_path, level):
    path = tmp_path / "long.jsonl"
    write_long_line(path, 100 * 2**20)
    validated = validator.validate_rows(path, CHAT, level)

    assert validated.accepted["line"].to_list() == [1, 3]
    assert [(rejected.line, rejected.reason) for rejected in validated.rejected] == [(2, Rule.ROW_TOO_LONG)]
    assert "104,857,600 bytes" in validated.rejected[0].detail


@pytest.mark.parametrize("name", ["crlf.jsonl", "no_final_newline.jsonl", "whole.jsonl.gz", "whole.jsonl.zst"])
def test_line_ends_and_compression_are_no_problem(validator, name):
    report = check(validator, FOLDER / name, CHAT, "STANDARD")

    assert report.valid
    assert report.rejected == 0


@pytest.mark.parametrize(
    "name", ["parquet.jsonl", "gzip.jsonl", "utf_16.jsonl", "empty.jsonl", "json_array.jsonl", "all_bytes.jsonl"]
)
def test_files_of_another_kind_are_refused(validator, name):
    assert not check(validator, FOLDER / name, CHAT, "STANDARD").valid


@pytest.mark.parametrize("piece", slow_texts(1))
def test_no_text_makes_a_rule_slow(validator, tmp_path, piece):
    """Each row is as long as many files; the time limit of the test is what tells."""
    text = slow_texts(200_000)[piece]
    path = tmp_path / "slow.jsonl"
    path.write_bytes(b"\n".join([line(row("a", text)), line(row(text, "b")), line(row(text, text)), GOOD]))
    check(validator, path, CHAT, "DEEP")
