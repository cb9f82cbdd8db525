import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.errors import DatasetInvalid
from gpu_assets.settings import Validation
from validators import DATASET_SPECS, Rule
from validators.convert import ALPACA, COLUMN_SHAPES, SHAREGPT, Converter, choose_shape
from validators.lines import Line
from validators.rows import Rejection, RowDecoder
from validators.rules import NOTHING_RESERVED, RowRules

LIMIT = Validation().max_row_bytes


def convert(row, shape=ALPACA, limit=LIMIT):
    data = row if isinstance(row, bytes) else json.dumps(row).encode()
    converted = Converter(shape, limit).convert(Line(1, data, len(data)))
    assert b"\n" not in converted
    return json.loads(converted)


def turns(*said):
    return [{"role": role, "content": content} for role, _, content in (turn.partition(": ") for turn in said)]


def shared(*said, **columns):
    return {"conversations": [{"from": turn["role"], "value": turn["content"]} for turn in turns(*said)], **columns}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "add", "input": "1 2", "output": "3"}, ["user: add\n\n1 2", "assistant: 3"]),
        ({"instruction": "add", "input": "", "output": "3"}, ["user: add", "assistant: 3"]),
        ({"instruction": "add", "input": " \n", "output": "3"}, ["user: add", "assistant: 3"]),
        ({"instruction": "add", "input": None, "output": "3"}, ["user: add", "assistant: 3"]),
        ({"instruction": "add", "output": "3"}, ["user: add", "assistant: 3"]),
        ({"instruction": "", "input": "1 + 2", "output": "3"}, ["user: 1 + 2", "assistant: 3"]),
        ({"instruction": " \n", "input": "1 + 2", "output": "3"}, ["user: 1 + 2", "assistant: 3"]),
        (
            {"instruction": "add", "output": "3", "system": "be brief", "history": []},
            ["system: be brief", "user: add", "assistant: 3"],
        ),
        ({"instruction": "add", "output": "3", "system": ""}, ["user: add", "assistant: 3"]),
    ],
)
def test_an_alpaca_row_is_one_exchange(row, said):
    assert convert(row) == {"messages": turns(*said)}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (shared("human: q", "gpt: a"), ["user: q", "assistant: a"]),
        (shared("system: s", "user: q", "assistant: a"), ["system: s", "user: q", "assistant: a"]),
        (shared("human: q", "chatgpt: a", system="s"), ["system: s", "user: q", "assistant: a"]),
        (shared(*["human: q", "gpt: a"] * 3), ["user: q", "assistant: a"] * 3),
        ({"conversations": turns("user: q", "assistant: a")}, ["user: q", "assistant: a"]),
        (
            {"conversations": [{"from": "human", "value": "q", "weight": 1}, {"from": "gpt", "value": "a"}]},
            ["user: q", "assistant: a"],
        ),
    ],
)
def test_a_sharegpt_row_is_a_conversation(row, said):
    assert convert(row, SHAREGPT) == {"messages": turns(*said)}


@pytest.mark.parametrize(
    ("row", "shape", "rule", "sentence"),
    [
        ({"instruction": "add"}, ALPACA, Rule.MISSING_COLUMN, "column output is missing; the row has instruction"),
        ({"instruction": "a", "output": 3}, ALPACA, Rule.WRONG_TYPE, "column output is a number, wanted text"),
        ({"instruction": "a", "output": None}, ALPACA, Rule.WRONG_TYPE, "column output is null"),
        ({"instruction": "a", "output": " "}, ALPACA, Rule.EMPTY_CONTENT, "turn 2 .assistant. is empty"),
        ({"instruction": "", "output": "b"}, ALPACA, Rule.EMPTY_CONTENT, "turn 1 .user. is empty"),
        ({"instruction": "a", "output": "b", "input": ["c"]}, ALPACA, Rule.WRONG_TYPE, "column input is a list"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, ALPACA, Rule.WRONG_TYPE, "earlier turns"),
        ({"instruction": "a\0", "output": "b"}, ALPACA, Rule.CONTROL_CHARACTER, "U.0000"),
        (b'{"instruction": "a", "output": NaN}', ALPACA, Rule.INVALID_JSON, "malformed"),
        (b'{"instruction": "a", "output": "\\ud800"}', ALPACA, Rule.INVALID_JSON, "ud800"),
        (b'{"instruction": "a", "output": "\xff"}', ALPACA, Rule.NOT_UTF8, "invalid start byte"),
        (b"[1]", ALPACA, Rule.NOT_AN_OBJECT, "object"),
        (b"[" * 100_000, ALPACA, Rule.NOT_AN_OBJECT, "array"),
        (
            b'{"instruction": ' + b"[" * 100_000 + b"]" * 100_000 + b', "output": "b"}',
            ALPACA,
            Rule.INVALID_JSON,
            "deep|recursion",
        ),
        ({"conversations": "human: hi"}, SHAREGPT, Rule.INVALID_JSON, "malformed"),
        ({"conversations": {}}, SHAREGPT, Rule.WRONG_TYPE, "is an object, wanted a list of turns"),
        ({"conversations": []}, SHAREGPT, Rule.ROLE_ORDER, "messages is empty"),
        ({"conversations": ["hi"]}, SHAREGPT, Rule.WRONG_TYPE, "turn 1 is text, wanted an object"),
        (shared("human: q"), SHAREGPT, Rule.ROLE_ORDER, "the last turn is user"),
        (shared("gpt: a", "human: q", "gpt: a"), SHAREGPT, Rule.ROLE_ORDER, "turn 1 is assistant, wanted user"),
        (shared("human: q", "function_call: f", "gpt: a"), SHAREGPT, Rule.UNKNOWN_ROLE, "turn 2 is of 'function_call'"),
        (shared("human: q", "tool: f", "gpt: a"), SHAREGPT, Rule.UNKNOWN_ROLE, "turn 2 is of 'tool'"),
        ({"conversations": [{"value": "q"}]}, SHAREGPT, Rule.UNKNOWN_ROLE, "turn 1 is of null"),
        ({"conversations": [{"from": "human", "value": None}]}, SHAREGPT, Rule.WRONG_TYPE, "turn 1 says null"),
        (
            {"conversations": [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]},
            SHAREGPT,
            Rule.UNKNOWN_ROLE,
            "turn 1 has tool_calls: tool turns are not converted",
        ),
        (shared("system: s", "human: q", "gpt: a", system="t"), SHAREGPT, Rule.ROLE_ORDER, "turn 2 is system"),
        (shared("human: q", "gpt: a", problem_key=7), SHAREGPT, Rule.WRONG_TYPE, "metadata"),
    ],
)
def test_what_cannot_be_converted_is_skipped_by_a_rule(row, shape, rule, sentence):
    with pytest.raises(Rejection, match=sentence) as caught:
        convert(row, shape)
    assert caught.value.rule is rule
    assert len(caught.value.detail) < 500


def test_a_row_over_the_cap_is_skipped_before_and_after():
    row = {"instruction": "a" * 900, "output": "b"}
    assert convert(row, limit=1024)["messages"]
    for limit in (900, len(json.dumps(row)) + 1):
        with pytest.raises(Rejection, match="validation.max_row_bytes"):
            convert(row, limit=limit)


def test_other_columns_are_kept_as_metadata_as_they_are():
    row = {"instruction": "a", "output": "b", "id": 7, "metadata": {"id": 1, "x": [1.50, None]}, "gone": None}
    assert convert(row)["metadata"] == {"x": [1.5, None], "id": 7}
    assert convert({**row, "metadata": "text"})["metadata"] == {"id": 7, "metadata": "text"}
    assert "metadata" not in convert({"instruction": "a", "output": "b", "metadata": None})

    digits = "7" * 400
    data = f'{{"instruction": "a", "output": "b", "n":\n {digits}}}'.encode()
    assert digits.encode() in Converter(ALPACA, LIMIT).convert(Line(1, data, len(data)))


@pytest.mark.parametrize(
    ("row", "schema", "converted"),
    [
        ({"messages": turns("user: q", "assistant: a")}, "chat_sft_v1", {"messages": turns("user: q", "assistant: a")}),
        (
            {"messages": json.dumps(turns("user: q", "assistant: a")), "text": "x"},
            "chat_sft_v1",
            {"messages": turns("user: q", "assistant: a"), "metadata": {"text": "x"}},
        ),
        ({"prompt": "q", "completion": "a"}, "chat_sft_v1", {"messages": turns("user: q", "assistant: a")}),
        (
            {"prompt": turns("system: s", "user: q"), "completion": turns("assistant: a")},
            "chat_sft_v1",
            {"messages": turns("system: s", "user: q", "assistant: a")},
        ),
        ({"prompt": "q", "response": "a"}, "chat_sft_v1", {"messages": turns("user: q", "assistant: a")}),
        ({"instruction": "q", "output": "a"}, "chat_sft_v1", {"messages": turns("user: q", "assistant: a")}),
        (shared("human: q", "gpt: a"), "chat_sft_v1", {"messages": turns("user: q", "assistant: a")}),
        ({"text": "x", "url": "y"}, "completion_v1", {"text": "x", "metadata": {"url": "y"}}),
    ],
)
def test_columns_decide_what_rows_are(row, schema, converted):
    shape = choose_shape(list(row))

    assert shape.schema_id == schema
    assert convert(row, shape) == converted


def test_columns_that_fit_nothing_are_refused_with_the_list():
    with pytest.raises(DatasetInvalid) as caught:
        choose_shape(["question", "answer"])

    assert "the columns answer, question fit no known row" in str(caught.value)
    assert all(" + ".join(shape.required) in str(caught.value) for shape in COLUMN_SHAPES)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TURN = st.fixed_dictionaries(
    {}, optional={key: VALUES | st.sampled_from(["human", "gpt", "x"]) for key in ("from", "value", "role", "content")}
)
NAMES = ("messages", "conversations", "prompt", "completion", "instruction", "input", "output", "text", "metadata")


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), VALUES | st.lists(TURN, max_size=4), max_size=6))
def test_whatever_a_row_holds_it_is_skipped_or_passes_the_content_gate(row):
    for shape in COLUMN_SHAPES:
        data = json.dumps(row).encode()
        try:
            converted = Converter(shape, LIMIT).convert(Line(1, data, len(data)))
        except Rejection:
            continue
        spec = DATASET_SPECS[shape.schema_id]
        decoded = RowDecoder(spec).decode(Line(1, converted, len(converted)))
        RowRules((), NOTHING_RESERVED).check(decoded, spec.kind)
        assert decoded.unknown_columns == ()
