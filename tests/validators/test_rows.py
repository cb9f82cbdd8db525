import pytest

from gpu_assets.errors import DatasetInvalid
from validators import DATASET_SPECS, read_columns
from validators.lines import Line
from validators.rows import Row, RowDecoder

CAP = 1024


def decode(text, schema="chat_sft_v1") -> Row:
    data = text.encode()
    return RowDecoder(DATASET_SPECS[schema]).decode(Line(1, data, len(data)))


TURNS = '"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'


def test_unknown_columns_and_message_keys_are_dropped_and_named():
    row = decode(f'{{"id": 1, {TURNS}, "score": 0.5}}'.replace('"a"}', '"a", "name": "x", "weight": 1}'))

    assert row.unknown_columns == ("id", "score", "messages[].name", "messages[].weight")
    assert [(message.role, message.content) for message in row.messages] == [("user", "a"), ("assistant", "b")]


def test_the_schemas_other_columns_travel_in_the_metadata():
    row = decode(f'{{{TURNS}, "tags": ["x"], "difficulty": null, "metadata": {{"a": 1, "tags": "own"}}}}')
    alone = decode(f'{{{TURNS}, "variant": 3}}', "syllo_v1")

    assert row.metadata == '{"tags":"own","difficulty":null,"a":1}'
    assert alone.metadata == '{"variant":3}'
    assert decode(f'{{{TURNS}, "variant": 3}}').unknown_columns == ("variant",)


def test_metadata_is_kept_to_the_letter():
    number = "9" * 400
    assert decode(f'{{{TURNS}, "metadata": {{"n": {number}, "s": "\\u00e9"}}}}').metadata == (
        f'{{"n": {number}, "s": "\\u00e9"}}'
    )


def test_a_system_prompt_column_becomes_the_first_turn():
    row = decode(f'{{{TURNS}, "system_prompt": "Be brief."}}')

    assert [(message.role, message.content) for message in row.messages][0] == ("system", "Be brief.")
    assert row.metadata is None


def test_columns_are_those_that_at_least_half_of_the_rows_have(write):
    chat, text = f'{{{TURNS}, "metadata": {{}}}}', '{"text": "a"}'

    assert read_columns(write(chat, chat, text), CAP) == {"messages", "metadata"}
    assert read_columns(write(text, "oops", "", chat, text), CAP) == {"text"}
    assert read_columns(write(chat, text), CAP) == {"messages", "metadata", "text"}
    assert read_columns(write(b"\xef\xbb\xbf" + text.encode()), CAP) == {"text"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n \r\n\n", "is empty"),
        (b"PAR1\x15\x04\x15\n", "looks like Parquet"),
        (b"\x1f\x8b\x08\x00", "looks like gzip"),
        ('{"text": "a"}\n'.encode("utf-16"), "looks like UTF-16 text"),
        (b"a,b\n1,2\n", r"none of its first 100 lines is a JSON object \(line 1: JSON is malformed"),
        (b"[]\n" * 200, "line 1: Expected `object`, got `array`"),
        (b'{"text": "\xff"}', "line 1: invalid start byte"),
        (b'{"text": "' + b"a" * 2000 + b'"}', r"line 1: the line has 2,012 bytes, the limit is 1,024"),
    ],
)
def test_a_file_without_readable_columns_is_refused(tmp_path, content, sentence):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)

    with pytest.raises(DatasetInvalid, match=sentence):
        read_columns(path, CAP)
