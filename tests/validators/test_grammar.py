"""A line that the expression takes for plainly good must be good by the rules themselves."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from validators import DATASET_SPECS, Reserved
from validators.grammar import PlainRows
from validators.lines import Chunk, Line
from validators.rows import Rejection, RowDecoder
from validators.rules import RowRules, has_ink

SPECIAL = ("<|im_end|>", "</s>", "<\uff5cend\uff5c>", 'a"b')
CAP = 400
DIGITS = "⓪①"
RESERVED = Reserved(lambda key: key == "held", lambda text: "⓪" in text, marks=tuple(DIGITS))
PIECES = st.sampled_from(
    [
        *SPECIAL,
        *DIGITS,
        " ",
        "\n",
        "\u00a0",
        "\u3000",
        "\x85",
        "\x00",
        "\x7f",
        "é",
        "日",
        "😀",
        "\ud800",
        "\u200b",
        "\u034f",
        "\u061c",
        "\U000e0041",
    ]
)
TEXT = st.lists(PIECES | st.text(max_size=3), max_size=3).map("".join)
TURN = st.tuples(st.sampled_from(["user", "assistant", "system", "tool"]), TEXT, st.booleans())
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
KEY = st.sampled_from(["problem_key", "a", "messages", "role", "tags"])
METADATA = st.dictionaries(
    KEY, SCALAR | st.lists(SCALAR, max_size=2) | st.dictionaries(KEY, SCALAR, max_size=2), max_size=2
)


def turn_of(role, content, content_first):
    turn = {"role": role, "content": content}
    return dict(reversed(turn.items())) if content_first else turn


CONVERSATION = st.one_of(
    st.lists(TURN, max_size=4),
    st.lists(TEXT, min_size=2, max_size=5).map(
        lambda texts: [(("user", "assistant")[index % 2], text, False) for index, text in enumerate(texts)]
    ),
).map(lambda turns: [turn_of(*turn) for turn in turns])
ROW = st.fixed_dictionaries(
    {"messages": CONVERSATION}, optional={"metadata": METADATA | st.none(), "tags": SCALAR}
) | st.fixed_dictionaries({"metadata": METADATA, "messages": CONVERSATION})
LINE = st.builds(
    lambda row, ascii, tight: json.dumps(row, ensure_ascii=ascii, separators=(",", ":") if tight else None),
    ROW,
    st.booleans(),
    st.booleans(),
)


def judge(data):
    """The row by the decoder and the rules, or None."""
    try:
        row = RowDecoder(DATASET_SPECS["chat_sft_v1"]).decode(Line(1, data, len(data)))
        RowRules(SPECIAL, RESERVED).check(row, "chat_sft")
    except (Rejection, UnicodeDecodeError):
        return None
    return row


@settings(max_examples=600, deadline=None)
@given(line=LINE)
@example(line='{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"<\\uff5cend\\uff5c>"}]}')
@example(line='{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"<\\/s>"}]}')
@example(line='{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"\\u24ea"}]}')
@example(line='{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"\\u007f"}]}')
@example(line='{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"\\u200b\\ufeff"}]}')
@example(line='{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"\\udb40\\udc41\\u034F"}]}')
@example(line='{"messages":[{"role":"user","content":"a","cont\\u0065nt":"a"},{"role":"assistant","content":"b"}]}')
@example(line='{"messages":[{"role":"user","content":"\\u2003"},{"role":"assistant","content":"b"}]}')
@example(
    line='{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"metadata":{"problem_key":"held"}}'
)
def test_every_line_that_matches_is_a_row_without_a_finding(line):
    data = line.encode("utf-8", "surrogatepass")
    marks = (*SPECIAL, *RESERVED.marks)
    matched = PlainRows(DATASET_SPECS["chat_sft_v1"], marks, CAP).match(Chunk(1, data))

    if matched is not None and matched.to_list() == [True]:
        row = judge(data)
        assert row is not None
        assert not row.unknown_columns
        assert len(data) <= CAP


ROWS = {
    "chat_sft_v1": '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b\\n"}]}',
    "completion_v1": '{"text": "a \\"b\\" \\u00e9 \\ud83d\\ude00"}',
}


@pytest.mark.parametrize("schema", sorted(ROWS))
@pytest.mark.parametrize("metadata", ["null", "{}", '{"id": 1, "tags": ["a", 1.5e3], "from": {"x": true}}'])
def test_the_rows_that_people_write_match(schema, metadata):
    plain = PlainRows(DATASET_SPECS[schema], SPECIAL[:2], CAP)
    alone = ROWS[schema]
    lines = [
        alone,
        re.sub(r"}$", f', "metadata": {metadata}}}', alone),
        re.sub(r"^{", f'{{"metadata":{metadata}, ', alone),
        json.dumps(json.loads(alone), separators=(",", ":")) + "\r",
    ]

    assert plain.match(Chunk(1, "\n".join(lines).encode())).to_list() == [True] * 4


def test_lines_are_matched_one_for_one_whatever_the_chunk_holds():
    plain = PlainRows(DATASET_SPECS["completion_v1"], (), CAP)
    good = b'{"text": "a"}'

    assert plain.match(Chunk(1, b"\n".join([good, b"", b"\r", good, b"{"]))).to_list() == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert plain.match(Chunk(1, b"\x1f\x8b\n" + good)) is None
    assert plain.match(Chunk(1, b"x\x01\n" + good + b"\n")).to_list() == [False, True]
    assert plain.match(Chunk(1, b"PAR1\n" + good + b"\n\n")).to_list() == [False, True, False]


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        ("a", True),
        ("<|im_end|>", False),
        ("<|im_sep|>", False),
        ("<|other|>", True),
        ("< |im_end|>", True),
        ("①", False),
        (r"\u2460", False),
        (r"\u24EA", False),
        (r"\u24eA", False),
        (r"\u24ff", False),
        (r"\u2500", True),
        (r"\u0435", True),
        (r"\ud83e\udd14", False),
        (r"\uD83E\uDD15", False),
        (r"\ud840\udc00", True),
        ("[/INST]", False),
        ("[INST", True),
        ("[/", True),
        ("problem_key", False),
    ],
)
def test_no_line_that_may_hold_a_mark_is_plainly_good(content, plain):
    """Marks that begin alike are looked for by what they share."""
    marks = ("<|im_end|>", "<|im_start|>", "⓪", "①", "🤔", "[/INST]")
    rows = PlainRows(DATASET_SPECS["completion_v1"], marks, CAP)
    line = b'{"text": "a' + content.encode() + b'"}'

    assert rows.match(Chunk(1, line)).to_list() == [plain]
    assert rows.match(Chunk(1, b"\n" + line)).to_list() == [False, plain]


def test_what_can_be_seen_is_told_from_what_cannot_as_the_rules_tell_it():
    """Every character, raw and in an escape."""
    rows = PlainRows(DATASET_SPECS["completion_v1"], (), CAP)
    chars = [chr(code) for code in (*range(0x21, 0xD800), *range(0xE000, 0x10000), *range(0xE0000, 0xE1010))]
    for ascii in (False, True):
        lines = [json.dumps({"text": f" {char}"}, ensure_ascii=ascii) for char in chars]
        plain = rows.match(Chunk(1, "\n".join(lines).encode())).to_list()
        taken = [char for char, is_plain in zip(chars, plain, strict=True) if is_plain]

        assert len(taken) > 40_000
        assert not [hex(ord(char)) for char in taken if not has_ink(char)]


def test_with_a_mark_that_is_everywhere_no_line_is_plainly_good():
    rows = PlainRows(DATASET_SPECS["completion_v1"], ("",), CAP)

    assert rows.match(Chunk(1, b'{"text": "a"}')).to_list() == [False]


def test_numbers_as_python_writes_them_are_plainly_good():
    rows = PlainRows(DATASET_SPECS["completion_v1"], (), CAP)
    numbers = [0.036829152032792134, 5e-324, 1.7976931348623157e308, -0.1, 2**53]
    lines = [json.dumps({"text": "a", "metadata": {"n": number}}).encode() for number in numbers]

    assert rows.match(Chunk(1, b"\n".join(lines))).to_list() == [True, False, False, True, True]
