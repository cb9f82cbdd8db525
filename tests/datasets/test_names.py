import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.datasets.names import (
    dataset_key,
    decode_path,
    display,
    encode_path,
    free_name,
    shorten,
    slug,
)

FILE_NAMES = st.binary(min_size=1, max_size=255).filter(lambda raw: b"/" not in raw and b"\0" not in raw)


@given(FILE_NAMES)
def test_a_slug_is_a_partition_key_that_dagster_and_every_file_system_take(raw: bytes) -> None:
    result = slug(os.fsdecode(raw))

    assert 1 <= len(result) <= 64
    assert set(result) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert result[0] not in ".-"
    assert ".." not in result


@given(FILE_NAMES)
def test_a_path_of_any_bytes_comes_back_from_its_ascii_form(raw: bytes) -> None:
    path = Path("inbox") / os.fsdecode(raw)

    assert encode_path(path).isascii()
    assert decode_path(encode_path(path)) == path


@given(FILE_NAMES)
def test_a_displayed_name_can_be_written_as_utf_8_and_holds_no_control_character(raw: bytes) -> None:
    shown = display(os.fsdecode(raw))

    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", "a-01234567"),
        ("ä b.jsonl", "__b-01234567"),
        ("-rf.jsonl", "_rf-01234567"),
        ("a...b.jsonl", "a__.b-01234567"),
        ("x.csv", "x.csv-01234567"),
    ],
)
def test_a_key_is_the_slug_of_the_stem_and_eight_digits_of_the_hash(name: str, expected: str) -> None:
    assert dataset_key(name, "0123456789abcdef") == expected


def test_a_taken_name_is_numbered_before_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "a.2.jsonl").touch()

    assert free_name(tmp_path, "a.jsonl") == "a.3.jsonl"


def test_a_name_of_the_longest_kind_stays_within_it_when_numbered(tmp_path: Path) -> None:
    name = "ä" * 124 + ".jsonl"
    (tmp_path / name).touch()

    numbered = free_name(tmp_path, name)

    assert len(numbered.encode()) <= 255
    assert numbered.endswith(".2.jsonl")


def test_shortening_cuts_whole_characters() -> None:
    assert shorten("ääää", ".jsonl", 11) == "ää.jsonl"
