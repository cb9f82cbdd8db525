"""`gpu-assets convert` as it is typed; what it writes is validated by `gpu-assets validate`."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from gpu_assets.cli import convert as command
from gpu_assets.cli.main import app
from gpu_assets.settings import PROJECT_ROOT
from validators.sidecar import read_sidecar

ALPACA = {"instruction": "Add them.", "input": "1 2", "output": "3", "id": 7}
SHAREGPT = {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Nobody."}]}
TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]

Convert = Callable[..., Result]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["convert", "--from", *map(str, arguments)])


def valid_rows(path: Path, schema: str = "chat_sft_v1") -> list[dict[str, Any]]:
    """The rows of a file, which the content gate accepts without a word."""
    result = CliRunner().invoke(app, ["validate", str(path), "--json"])
    (entry,) = json.loads(result.stdout)["files"]
    assert (result.exit_code, entry["schema"], entry["problems"]) == (0, schema, [])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert entry["accepted"] == len(rows)
    return rows


def as_lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize(
    "data",
    [
        as_lines(ALPACA, ALPACA),
        b"\xef\xbb\xbf" + as_lines(ALPACA, ALPACA).replace(b"\n", b"\r\n\n"),
        json.dumps([ALPACA, ALPACA], indent=2).encode(),
        b"\xef\xbb\xbf \n" + json.dumps([ALPACA, ALPACA]).encode(),
        b"\r\n \t" * 500 + json.dumps([ALPACA, ALPACA]).encode(),
    ],
    ids=["lines", "lines of another editor", "array", "array with a byte order mark", "array after blank lines"],
)
def test_alpaca_rows_become_chat_rows(convert: Convert, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "in.json").write_bytes(data)
    result = convert("alpaca", "in.json", "out.jsonl")

    assert (result.exit_code, result.output) == (0, "2 of 2 rows converted to chat_sft_v1: out.jsonl\n")
    messages = [{"role": "user", "content": "Add them.\n\n1 2"}, {"role": "assistant", "content": "3"}]
    assert valid_rows(tmp_path / "out.jsonl") == [{"messages": messages, "metadata": {"id": 7}}] * 2


def test_compressed_sharegpt_rows_become_chat_rows(convert: Convert, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(as_lines(SHAREGPT)))

    assert convert("sharegpt", "in.jsonl.gz", "out.jsonl").exit_code == 0
    assert valid_rows(tmp_path / "out.jsonl") == [{"messages": TURNS}]


def test_the_sidecar_says_where_the_rows_are_from(convert: Convert, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(as_lines(SHAREGPT))
    convert("sharegpt", "in.jsonl", "out.jsonl")

    sidecar = read_sidecar(tmp_path / "out.jsonl.meta.json")
    assert (sidecar.generator_id, sidecar.inferred, sidecar.schema_id) == ("manual", False, "chat_sft_v1")
    assert (sidecar.example_count, sidecar.source) == (1, "in.jsonl")
    assert sidecar.params["converted_from"] == "sharegpt"


@pytest.mark.parametrize("as_array", [False, True])
def test_skipped_rows_are_counted_with_their_numbers(convert: Convert, tmp_path: Path, as_array: bool) -> None:
    tool = {"conversations": [{"from": "human", "value": "Who?"}, {"from": "tool", "value": "x"}]}
    rows = [SHAREGPT, tool, {"id": 1}, SHAREGPT, tool]
    (tmp_path / "in.json").write_bytes(json.dumps(rows).encode() if as_array else as_lines(*rows))
    result = convert("sharegpt", "in.json", "out.jsonl")

    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert lines[0] == "2 of 5 rows converted to chat_sft_v1: out.jsonl"
    assert "missing_column 1 3 column conversations is missing; the row has id" in lines
    assert any(line.startswith("unknown_role 2 2, 5 turn 2 is of 'tool'") for line in lines)
    assert len(valid_rows(tmp_path / "out.jsonl")) == 2


def test_where_no_row_can_be_converted_nothing_is_written(convert: Convert, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_bytes(as_lines(SHAREGPT))
    result = convert("alpaca", "in.json", "out.jsonl")

    assert result.exit_code == 1
    assert "0 of 1 rows converted to chat_sft_v1: nothing is written" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


@pytest.mark.parametrize(
    ("columns", "schema", "row"),
    [
        ({"messages": [TURNS]}, "chat_sft_v1", {"messages": TURNS}),
        ({"conversations": [SHAREGPT["conversations"]]}, "chat_sft_v1", {"messages": TURNS}),
        ({"prompt": ["Who?"], "response": ["Nobody."]}, "chat_sft_v1", {"messages": TURNS}),
        ({"prompt": ["Who?"], "completion": ["Nobody."]}, "chat_sft_v1", {"messages": TURNS}),
        ({"prompt": [TURNS[:1]], "completion": [TURNS[1:]]}, "chat_sft_v1", {"messages": TURNS}),
        (
            {"prompt": [[TURNS[0], TURNS[1], TURNS[0]]], "completion": ["So."]},
            "chat_sft_v1",
            {"messages": [*TURNS, TURNS[0], {"role": "assistant", "content": "So."}]},
        ),
        ({"instruction": ["Who?"], "input": [None], "output": ["Nobody."]}, "chat_sft_v1", {"messages": TURNS}),
        ({"text": ["Nobody."]}, "completion_v1", {"text": "Nobody."}),
    ],
)
def test_parquet_columns_decide_what_rows_are(
    convert: Convert, tmp_path: Path, columns: dict[str, Any], schema: str, row: dict[str, Any]
) -> None:
    made = {"day": date(2026, 1, 2), "score": float("nan"), "raw": b"x", "kind": "a"}
    frame = pl.DataFrame(columns).with_columns(*(pl.lit(value).alias(name) for name, value in made.items()))
    frame.with_columns(pl.col("kind").cast(pl.Categorical)).write_parquet(tmp_path / "in.parquet")
    result = convert("parquet", "in.parquet", "out.jsonl")

    assert result.exit_code == 0, result.output
    metadata = {"day": "2026-01-02", "raw": "eA==", "kind": "a"}
    assert valid_rows(tmp_path / "out.jsonl", schema) == [{**row, "metadata": metadata}]


def test_many_parquet_rows_keep_their_order(convert: Convert, tmp_path: Path) -> None:
    prompts = [f"Who is number {number}?" for number in range(5000)]
    prompts[4321] = ""
    frame = pl.DataFrame({"prompt": prompts, "response": ["Nobody."] * 5000})
    frame.write_parquet(tmp_path / "in.parquet", row_group_size=700)
    result = convert("parquet", "in.parquet", "out.jsonl")

    assert result.exit_code == 1
    assert "4,322" in result.output
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["messages"][0]["content"] for row in rows] == [prompt for prompt in prompts if prompt]


def parquet(**columns: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("format_", "data", "sentence"),
    [
        ("alpaca", None, "in cannot be read: No such file or directory"),
        ("alpaca", b"", "in holds no rows"),
        ("alpaca", b"\n\n", "in holds no rows"),
        ("alpaca", b"[]", "in holds no rows"),
        ("alpaca", b"[" + as_lines(ALPACA), "begins like a JSON array and is none"),
        ("alpaca", b"[" * 100_000, "in begins like a JSON array and is none"),
        ("alpaca", parquet(text=["x"]), "looks like Parquet; use --from parquet"),
        ("sharegpt", b"PK\x03\x04", "looks like a zip archive"),
        ("parquet", as_lines(ALPACA), "in is no Parquet file; use --from alpaca or --from sharegpt"),
        ("parquet", b"", "in is no Parquet file"),
        ("parquet", parquet(text=["x" * 1000])[:-40], "in is not a whole Parquet file"),
        ("parquet", parquet(question=["q"], answer=["a"]), "the columns answer, question fit no known row"),
        ("csv", as_lines(ALPACA), "'csv' is not one of"),
    ],
)
def test_what_cannot_be_read_is_a_sentence_and_exit_code_2(
    convert: Convert, tmp_path: Path, format_: str, data: bytes | None, sentence: str
) -> None:
    if data is not None:
        (tmp_path / "in").write_bytes(data)
    result = convert(format_, "in", "out.jsonl")

    assert result.exit_code == 2
    assert sentence in " ".join(result.output.replace("│", " ").split())
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


def test_a_file_torn_in_the_middle_leaves_what_was_there(convert: Convert, tmp_path: Path) -> None:
    (tmp_path / "in.gz").write_bytes(gzip.compress(as_lines(*[ALPACA] * 1000))[:-20])
    (tmp_path / "out.jsonl").write_text("before")
    result = convert("alpaca", "in.gz", "out.jsonl")

    assert result.exit_code == 2
    assert (tmp_path / "out.jsonl").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"in.gz", "out.jsonl"}


def test_an_array_that_is_too_long_is_refused(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "MAX_ARRAY_BYTES", 2**20)
    (tmp_path / "in.json").write_bytes(json.dumps([ALPACA] * 20_000).encode())

    assert "is a JSON array of over 1 MiB" in convert("alpaca", "in.json", "out.jsonl").output


@pytest.mark.parametrize(
    ("source", "out", "sentence"),
    [
        ("in.jsonl", "in.jsonl", "is what is to be converted"),
        ("in.jsonl", "link.jsonl", "is what is to be converted"),
        ("x.jsonl.meta.json", "x.jsonl", "is what is to be converted"),
        ("in.jsonl", "out.json", "does not end in .jsonl"),
        ("in.jsonl", "in.jsonl/out.jsonl", "cannot be written"),
        ("x", "out.jsonl", "is not a regular file"),
        ("a" * 300, "out.jsonl", "File name too long"),
        ("in.jsonl", "a" * 300 + ".jsonl", "File name too long"),
    ],
)
def test_a_name_that_cannot_be_written_or_read_is_a_sentence(
    convert: Convert, tmp_path: Path, source: str, out: str, sentence: str
) -> None:
    for name in ("in.jsonl", "x.jsonl.meta.json"):
        (tmp_path / name).write_bytes(as_lines(ALPACA))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "in.jsonl")
    (tmp_path / "x").mkdir()
    result = convert("alpaca", source, out)

    assert result.exit_code == 2
    assert sentence in result.output.replace("\n", " ")
    assert (tmp_path / "in.jsonl").read_bytes() == as_lines(ALPACA)


def test_the_command_loads_neither_dagster_nor_torch(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(as_lines(ALPACA))
    code = (
        "import sys; from gpu_assets.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print(sorted({'dagster', 'torch', 'transformers', 'pandas'} & sys.modules.keys()), file=sys.stderr)"
    )
    names = [str(tmp_path / name) for name in ("in.jsonl", "out.jsonl")]
    done = subprocess.run(
        [sys.executable, "-c", code, "convert", "--from", "alpaca", *names],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
    )

    assert (done.returncode, done.stderr.strip()) == (0, "[]")
