"""The thinking protocol: begun and ended, begun only, and files of two kinds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validators.protocol import find_protocol_break, has_protocol, protocol_mix
from validators.report import Rule
from validators.rows import Message


def answer(text: str) -> list[Message]:
    return [Message("user", "🤔🤔 why?"), Message("assistant", text)]


@pytest.mark.parametrize(
    "text",
    [
        "🤔🤔\nIt is 4.",
        "💡💡💡💡💡💡💡💡 4",
        "✨️✨️ 4",
        "⚡⚡\n4 🛑",
        "🤔🤔\n4 🛑🛑 more",
        "<think>so\n4",
        "\n<think>",
        "🤔🤔\n🛑⛔",
    ],
)
def test_a_protocol_begun_and_not_ended_is_found(text):
    assert has_protocol(text)
    assert find_protocol_break(answer(text)).rule is Rule.PROTOCOL_MIX


@pytest.mark.parametrize(
    "text",
    ["🤔🤔\n4\n🛑🛑", "💡💡 4\n⏹️⏹️", "🤔🤔\n4\n🛡🛡🛡🛡 \n", "🧐🧐\n4 ⏹⏹️", "<think>so</think>4"],
)
def test_a_protocol_begun_and_ended_passes(text):
    assert has_protocol(text)
    assert find_protocol_break(answer(text)) is None


@pytest.mark.parametrize("text", ["4", "✨ Here it is.", "💡 Tip: do it.", "🤔💭 4", "4 🤔🤔", "4\n🛑🛑", "😀😀 4", ""])
def test_an_answer_without_the_protocol_passes(text):
    assert not has_protocol(text)
    assert find_protocol_break(answer(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "so</think>4",
        "</think>4",
        "so</think> <think> 4",
        "<|eot_id|>",
        "It is 4.<|eot_id|>",
        "<|start_header_id|>user",
        "4 [/INST]",
    ],
)
def test_what_was_left_of_a_thought_or_of_a_turn_is_found(text):
    assert find_protocol_break(answer(f" {text}\n")).rule is Rule.PROTOCOL_MIX


@pytest.mark.parametrize(
    "text",
    [
        "Close it with `</think>`.",
        "so <think>it is</think> 4",
        "Llama ends a turn with <|eot_id|> and goes on.",
        "`<|eot_id|>`",
        "<|other|>",
        "Use <s>text</s>",
        "[INST",
    ],
)
def test_marks_that_an_answer_speaks_of_pass(text):
    assert find_protocol_break(answer(text)) is None


@pytest.mark.parametrize(
    ("asked", "answered"),
    [("Which token ends a turn in Llama 3?", "<|eot_id|>"), ("What begins turns in Gemma?", "<start_of_turn>.")],
)
def test_a_mark_alone_passes_where_one_is_asked_for(asked, answered):
    turns = [Message("user", asked), Message("assistant", answered)]
    assert find_protocol_break(turns) is None
    assert find_protocol_break([turns[0], Message("assistant", f"It is so. {answered.strip('.')}")]) is not None
    assert find_protocol_break([Message("user", "And now?"), turns[1]]) is not None


@pytest.mark.parametrize(
    ("with_protocol", "rows", "mixed"),
    [(6, 20, True), (14, 20, True), (5, 20, False), (15, 20, False), (10, 19, False), (0, 0, False), (50, 100, True)],
)
def test_a_file_is_mixed_from_thirty_to_seventy_percent(with_protocol, rows, mixed):
    finding = protocol_mix(with_protocol, rows)
    assert (finding is not None) is mixed
    assert not mixed or (finding.rule is Rule.PROTOCOL_MIX and f"{with_protocol} of {rows} rows" in finding.detail)


@given(st.text() | st.lists(st.sampled_from(["🤔", "\ufe0f", "🛑", "⏹", "<think>", " ", "a"])).map("".join))
def test_no_text_makes_it_raise(text):
    find_protocol_break(answer(text))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["🤔", "🛑", "\ufe0f", " ", "🤔\ufe0f", "🤔🤔 ", "<think>"])
def test_a_long_text_takes_linear_time(unit):
    find_protocol_break(answer(unit * (2**20 // len(unit)) + "x"))
