"""Whatever the bytes: every line is counted once, and nothing but the documented error is raised."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpu_assets.errors import DatasetInvalid
from gpu_assets.settings import Validation
from validators import DATASET_SPECS, DataValidator, Level, Limits, parse_sidecar, read_columns

LIMITS = Limits(Validation(max_row_bytes=1024), max_length=64)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CONTENT = st.text(max_size=12) | st.sampled_from(["a", "", "<|im_end|>", "b\x00", "word " * 40, "x" * 2000]) | JSON
ROLE = st.sampled_from(["user", "assistant", "system", "tool"]) | JSON
TURN = st.fixed_dictionaries({"role": ROLE, "content": CONTENT}, optional={"name": JSON}) | JSON
METADATA = st.dictionaries(st.sampled_from(["problem_key", "n"]), JSON) | JSON
ROW = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(TURN, max_size=4) | JSON,
        "text": CONTENT,
        "metadata": METADATA,
        "system_prompt": CONTENT,
        "tags": JSON,
        "other": JSON,
    },
)
LINE = st.one_of(
    ROW.map(lambda row: json.dumps(row).encode()),
    ROW.map(lambda row: json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    ROW.map(lambda row: json.dumps(row).encode()[:-3]),
    st.binary(max_size=40),
)


@pytest.fixture(scope="module")
def hostile_path(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "rows.jsonl"


@pytest.mark.parametrize("level", [level.value for level in Level])
@pytest.mark.parametrize("schema", sorted(DATASET_SPECS))
@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(LINE, max_size=6), end=st.sampled_from([b"\n", b"\r\n", b"\n\n", b""]), tail=st.binary(max_size=4)
)
@example(lines=[b"\xef\xbb\xbf"], end=b"", tail=b"")
@example(lines=[b'{"messages":[{"role":"user","content":"\\ud800 "}]}'], end=b"\n", tail=b"\x00")
def test_accepted_and_rejected_and_blank_are_all_lines(renderer, hostile_path, schema, level, lines, end, tail):
    data = b"".join(line + end for line in lines) + tail
    hostile_path.write_bytes(data)
    validated = DataValidator(renderer, LIMITS).validate_rows(hostile_path, DATASET_SPECS[schema], level)
    report = validated.report

    assert report.lines == len(data.split(b"\n")) - (data.endswith(b"\n") or not data)
    assert report.accepted + report.rejected + report.blank_lines == report.lines
    numbers = validated.accepted["line"].to_list() + [row.line for row in validated.rejected]
    assert len(set(numbers)) == len(numbers) == report.rows
    assert report.valid is not any(problem.severity == "reject_file" for problem in report.problems)
    assert "\n" not in report.headline()
    json.dumps([report.to_json(), [row.to_row() for row in validated.rejected]], allow_nan=False).encode()


@settings(max_examples=150, deadline=None)
@given(data=st.lists(LINE, max_size=4).map(b"\n".join))
def test_columns_are_read_or_refused(hostile_path: Path, data: bytes):
    hostile_path.write_bytes(data)
    try:
        assert all(isinstance(column, str) for column in read_columns(hostile_path, 1024))
    except DatasetInvalid as refusal:
        assert len(str(refusal)) < 1000


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=60) | METADATA.map(lambda value: json.dumps(value).encode()))
def test_a_sidecar_is_typed_or_refused(data: bytes):
    try:
        json.dumps(parse_sidecar(data, "a.meta.json").to_json())
    except DatasetInvalid as refusal:
        assert "a.meta.json" in str(refusal)
