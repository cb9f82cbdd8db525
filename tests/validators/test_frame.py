import hashlib
import json

import pandera.errors
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validators import accepted_schema, content_sha256
from validators.frame import MESSAGES
from validators.rows import Line, Message, Row

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_accepted_rows_have_the_columns_of_the_schema(validate, chat):
    chats = validate(chat("a", "b", "c", "d", metadata={"n": 1}), chat("e", "f")).accepted
    texts = validate({"text": "a"}, schema="completion_v1").accepted

    assert chats.schema == {
        "line": pl.Int64,
        "row_sha256": pl.String,
        "messages": MESSAGES,
        "metadata": pl.String,
        "num_tokens": pl.Int32,
        "num_supervised": pl.Int32,
        "truncated": pl.Boolean,
    }
    assert chats["messages"].to_list() == [chat("a", "b", "c", "d")["messages"], chat("e", "f")["messages"]]
    assert chats["metadata"].to_list() == ['{"n": 1}', None]
    assert texts.columns == [column if column != "messages" else "text" for column in chats.columns]


def test_frames_of_no_rows_have_the_same_columns(validate, chat):
    assert validate("{").accepted.schema == validate(chat()).accepted.schema
    assert validate("{", schema="completion_v1").accepted.columns[2] == "text"


def test_files_of_more_than_one_batch_keep_their_order(validate, chat):
    accepted = validate(*[chat(f"q{n}", f"a{n}") for n in range(9000)], level="QUICK").accepted

    assert accepted["line"].to_list() == list(range(1, 9001))
    assert [row[0]["content"] for row in accepted["messages"].to_list()] == [f"q{n}" for n in range(9000)]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda frame: pl.concat([frame, frame]),
        lambda frame: frame.with_columns(line=pl.lit(0, pl.Int64)),
        lambda frame: frame.with_columns(row_sha256=pl.lit("abc")),
        lambda frame: frame.with_columns(num_supervised=pl.lit(0, pl.Int32)),
        lambda frame: frame.with_columns(num_tokens=pl.col("num_tokens").cast(pl.Int64)),
        lambda frame: frame.drop("metadata"),
        lambda frame: frame.with_columns(more=pl.lit(1)),
    ],
)
def test_the_schema_refuses_a_frame_that_is_not_what_it_promises(validate, chat, break_it):
    accepted = validate(chat()).accepted
    schema = accepted_schema("chat_sft")

    schema.validate(accepted, lazy=True)
    with pytest.raises((pandera.errors.SchemaErrors, pandera.errors.SchemaError)):
        schema.validate(break_it(accepted), lazy=True)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_the_row_hash_is_that_of_the_sorted_compact_json(turns):
    row = Row(Line(1, b"", 0), [Message(role, content) for role, content in turns], "", None, None, None, ())
    value = {"messages": [{"role": role, "content": content} for role, content in turns]}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert content_sha256(row, "chat_sft") == hashlib.sha256(text.encode()).hexdigest()


def test_the_row_hash_is_of_the_content_alone(validate, chat):
    accepted = validate(
        chat("a", "b"),
        chat("a", "b", metadata={"n": 1}, tags=[]),
        json.dumps(chat("a", "b"), indent=None, separators=(",", ":")),
        chat("a", "c"),
    ).accepted

    assert accepted["row_sha256"].n_unique() == 2
    assert accepted["row_sha256"].to_list()[:3] == [accepted["row_sha256"][0]] * 3
