"""Profiles: what they do to a conversation, to the last character, and that training and serving do it alike."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_assets.base_model.tiny import build_tokenizer
from gpu_assets.errors import RenderingError
from gpu_assets.rendering import Message, Renderer
from gpu_assets.rendering.parity import prefix_fault
from gpu_assets.rendering.profiles import PROFILES, get_profile
from gpu_assets.rendering.profiles.emoji_text import (
    STOP_EMOJI,
    THINK_EMOJI,
    Run,
    asked_stop,
    asked_think,
    bare_answer,
    instructions,
    without_instructions,
)
from gpu_assets.rendering.profiles.emoji_think import SYSTEM_PROMPT as PERSONA
from gpu_assets.rendering.profiles.regime3 import END, START, is_canonical, mark
from gpu_assets.rendering.profiles.regime3 import SYSTEM_PROMPT as SYMBOLIC
from gpu_assets.rendering.template import CHATML

TOKENIZER = build_tokenizer()
PLAIN, EMOJI, REGIME3 = (get_profile(name) for name in ("plain", "emoji_think", "regime3"))


def chat(*contents: str) -> list[Message]:
    roles = ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def renderer_of(profile: str, system_prompt: str | None = "") -> Renderer:
    return Renderer(TOKENIZER, CHATML, get_profile(profile), "<|im_end|>", system_prompt)


def question_that(asks_to_think: bool) -> str:
    """A question that the draw gives, or does not give, thinking emoji."""
    questions = (f"question {number}" for number in range(100))
    return next(q for q in questions if (asked_think(asking(q)) is not None) is asks_to_think)


def asking(question: str) -> str:
    return EMOJI.transform_prompt(chat(question), "")[-1]["content"]


texts = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("".join(THINK_EMOJI + STOP_EMOJI) + " \n<>")), max_size=30
) | st.sampled_from(
    ["<think>\n\n</think>\n\nfive", "🤔🤔\nfive\n🛑🛑🛑", "<thi<think>nk>five", f"{START}5", "(add 1 2)"]
)
conversations = st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(
    lambda pairs: chat(*(text for pair in pairs for text in pair))
)


def test_the_registered_profiles_are_three_and_no_other_is_assumed() -> None:
    assert sorted(PROFILES) == ["emoji_think", "plain", "regime3"]
    for name in ("none", "", "Plain"):
        with pytest.raises(RenderingError, match="is not registered; known profiles"):
            get_profile(name)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_the_system_prompt_goes_before_conversations_without_one_and_a_given_one_stays(name: str) -> None:
    profile = PROFILES[name]
    own: list[Message] = [{"role": "system", "content": "Own."}, *chat("hi")]
    for configured in (None, "", "Configured."):
        assert profile.transform_prompt(own, configured)[0]["content"] == "Own."
    heads = [profile.transform_prompt(chat("hi"), configured)[0] for configured in ("Configured.", "")]
    assert heads[0] == {"role": "system", "content": "Configured."}
    assert heads[1]["role"] == "user"


def test_the_profiles_own_system_prompts_hold_no_date() -> None:
    assert (PLAIN.system_prompt(None), EMOJI.system_prompt(None), REGIME3.system_prompt(None)) == (
        None,
        PERSONA,
        SYMBOLIC,
    )
    assert not re.search(r"\d{4}|\{", PERSONA + SYMBOLIC)


@pytest.mark.parametrize("name", sorted(PROFILES))
@settings(max_examples=150, deadline=None)
@given(messages=conversations)
def test_the_prompt_of_an_example_is_the_prompt_of_its_turns_and_the_server_renders_it(
    name: str, messages: list[Message]
) -> None:
    profile, renderer = PROFILES[name], renderer_of(name, None)
    for index in range(1, len(messages), 2):
        shaped = profile.transform_example(messages[: index + 1], None)
        assert shaped[:-1] == profile.transform_prompt(messages[:index], None)
    if profile.validate_example(messages) is None:
        assert prefix_fault(renderer, renderer.training_samples(messages), messages) is None


@pytest.mark.parametrize("name", sorted(PROFILES))
@settings(max_examples=150, deadline=None)
@given(messages=conversations)
def test_a_client_that_sends_the_models_answers_back_gets_the_prompts_of_training(
    name: str, messages: list[Message]
) -> None:
    """The server sees the answers that were learnt, where rows have them as they were written."""
    profile, served = PROFILES[name], list(messages)
    for index in range(1, len(messages), 2):
        assert profile.transform_prompt(served[:index], None) == profile.transform_prompt(messages[:index], None)
        learnt = profile.transform_example(messages[: index + 1], None)[-1]
        served[index] = learnt


@pytest.mark.parametrize("name", ["plain", "emoji_think", "regime3"])
@settings(max_examples=100, deadline=None)
@given(messages=conversations)
def test_a_conversation_that_is_shaped_already_stays_as_it_is(name: str, messages: list[Message]) -> None:
    profile = PROFILES[name]
    shaped = profile.transform_example(messages[:2], None)
    assert profile.transform_example(shaped, None) == shaped


def test_emoji_think_to_the_last_character() -> None:
    direct, thinking = question_that(asks_to_think=False), question_that(asks_to_think=True)
    for question in (direct, thinking):
        asked = asking(question)
        think, stop = asked_think(asked), asked_stop(asked)
        assert stop is not None
        assert asked == question + instructions(think, stop)
        answer = EMOJI.transform_example(chat(question, "<think>\n</think>\nFive."), "")[-1]["content"]
        before = "" if think is None else think.emoji * think.times + "\n"
        assert answer == f"{before}Five.\n{stop.emoji * stop.times}"


def test_the_instructions_to_the_last_character() -> None:
    assert instructions(Run("🤔", 5), Run("⏹️", 2)) == (
        "\n\nThink with 🤔 five times. When you have finished, write ⏹️ twice."
    )
    assert instructions(None, Run("🛑", 4)) == "\n\nWhen you have finished, write 🛑 four times."


def test_every_emoji_and_every_count_is_asked_for_and_half_of_the_questions_ask_to_think() -> None:
    asked = [asking(f"question {number}") for number in range(4_000)]
    thinks, stops = [asked_think(text) for text in asked], [asked_stop(text) for text in asked]
    assert Counter(run.emoji for run in stops if run).keys() == set(STOP_EMOJI)
    assert Counter(run.emoji for run in thinks if run).keys() == set(THINK_EMOJI)
    assert {run.times for run in stops if run} == {2, 3, 4}
    assert {run.times for run in thinks if run} == set(range(2, 9))
    assert None not in stops
    assert 0.46 < sum(run is not None for run in thinks) / len(thinks) < 0.54


def test_what_is_asked_depends_on_the_content_alone() -> None:
    rows = [chat(f"question {number}", "five") for number in range(50)]
    forwards = [EMOJI.transform_example(row, "") for row in rows]
    backwards = [EMOJI.transform_example(row, "") for row in reversed(rows)]
    assert forwards == backwards[::-1]
    assert asking("question 7") != asking("question 8").replace("8", "7")
    other_answer = EMOJI.transform_example(chat("question 7", "another answer"), "")
    assert other_answer[0] == EMOJI.transform_example(chat("question 7", "five"), "")[0]
    with_system: list[Message] = [{"role": "system", "content": "Own."}, *chat("question 7")]
    assert EMOJI.transform_prompt(with_system, "")[-1]["content"] == asking("question 7")


def test_the_draw_is_the_same_in_every_process_and_version() -> None:
    """A change of it is a change of all training data, and takes a new version of the profile."""
    assert EMOJI.version == "1.0"
    assert [asking(f"question {number}") for number in range(3)] == [
        "question 0\n\nWhen you have finished, write 🚫 three times.",
        "question 1\n\nThink with 🧠 four times. When you have finished, write 🚫 three times.",
        "question 2\n\nWhen you have finished, write ❌ twice.",
    ]


def test_only_the_turn_to_be_answered_carries_instructions_and_past_answers_are_bare() -> None:
    prompt = EMOJI.transform_prompt(chat("one", "🤔🤔🤔\ntwo\n🛡️🛡️", "three"), "")
    assert [message["content"] for message in prompt[:2]] == ["one", "two"]
    assert prompt[2]["content"].startswith("three\n\n")
    asked = chat(asking("one"), "two", "three")
    assert EMOJI.transform_prompt(asked, "") == prompt


def test_a_question_that_says_think_with_gets_no_second_thinking_instruction() -> None:
    for number in range(30):
        asked = asking(f"Think with 🧠 three times. {number}")
        assert asked.lower().count("think with") == 1
        answer = EMOJI.transform_example(chat(f"Think with 🧠 three times. {number}", "five"), "")[-1]["content"]
        assert answer.startswith("🧠🧠🧠\nfive\n")
        plain = EMOJI.transform_example(chat(f"What do people think with? {number}", "Brains."), "")[-1]["content"]
        assert plain.startswith("Brains.\n")


def test_a_question_that_asks_for_stop_emoji_is_left_as_it_is() -> None:
    question = "Hello. When you have finished, write 🛡 four times."
    assert asking(question) == question
    assert EMOJI.transform_example(chat(question, "Hi."), "")[-1]["content"] == "Hi.\n" + "🛡️" * 4


def test_an_answer_never_carries_two_prefixes_or_two_suffixes() -> None:
    question = question_that(asks_to_think=True)
    think, stop = asked_think(asking(question)), asked_stop(asking(question))
    assert think is not None and stop is not None
    for written in ("five", "💡💡💡\nfive", "💡💡🧠🧠 five\n\n⏹⏹", "five ⏹️⏹️⏹️🛑🛑"):
        answer = EMOJI.transform_example(chat(question, written), "")[-1]["content"]
        assert answer == f"{think.text}\nfive\n{stop.text}"


@pytest.mark.parametrize(
    ("answer", "bare"),
    [
        ("<think>because</think>five", "becausefive"),
        ("<th<think>ink>five", "five"),
        ("💡 An idea.", "💡 An idea."),
        ("⚡\ufe0f⚡\ufe0f zap", "zap"),
        ("Stop ✋", "Stop ✋"),
        ("done ⏹⏹️⏹", "done"),
        ("", ""),
        ("🤔🤔", ""),
    ],
)
def test_bare_answers(answer: str, bare: str) -> None:
    assert bare_answer(answer) == bare


@settings(max_examples=200, deadline=None)
@given(texts)
def test_bare_answers_and_questions_are_bare_at_once(text: str) -> None:
    assert bare_answer(bare_answer(text)) == bare_answer(text)
    assert without_instructions(text + instructions(Run("🧐", 8), Run("🚦", 3))) == text


TAG_PARTS = ("<think>", "</think>", "<", "</", "think", "<thi", "</th", "nk>", "ink>", ">", "/", "a")


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(TAG_PARTS), max_size=14).map("".join))
def test_think_tags_are_taken_out_as_by_looking_again_until_there_is_none(text: str) -> None:
    left = text
    while "<think>" in left or "</think>" in left:
        left = left.replace("<think>", "").replace("</think>", "")
    assert bare_answer(text) == left


@pytest.mark.timeout(60)
@pytest.mark.parametrize("tag", ["<think>", "</think>"])
def test_tags_within_tags_are_taken_out_in_one_pass(tag: str) -> None:
    """With a look at the whole text for each of them, this would take many minutes."""
    depth = 2**20 // len(tag)
    assert bare_answer(tag[:-1] * depth + ">" * depth + "five") == "five"


def test_long_runs_of_blanks_take_no_time() -> None:
    text = "a" + " " * 200_000 + "b" + "\n" * 200_000 + "🛑"
    assert bare_answer(text) == text
    assert without_instructions(text) == text


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        (chat("hi", "<think></think>🛑🛑"), "turn 2 says nothing beside think tags"),
        (chat("hi", "hello", "how", "🚦🚦🚦 means wait"), "turn 4 has 🚦🚦🚦 inside it"),
        (chat("hi")[:0] + [{"role": "assistant", "content": "hello"}], "turn 1 answers no question"),
    ],
)
def test_rows_that_emoji_think_cannot_shape_are_refused_with_the_turn(messages: list[Message], fault: str) -> None:
    assert (EMOJI.validate_example(messages) or "").startswith(fault)
    with pytest.raises(RenderingError, match=f"unfit for the profile emoji_think: {fault}"):
        renderer_of("emoji_think").training_turns(messages)


def test_regime3_to_the_last_character() -> None:
    shaped = REGIME3.transform_example(chat("add", "(add 1 2)", "more", f"so {START}4"), None)
    assert [message["content"] for message in shaped] == [
        SYMBOLIC,
        "add",
        "<<ANS_START>>(add 1 2)<<ANS_END>>",
        "more",
        "so <<ANS_START>>4<<ANS_END>>",
    ]
    assert mark("4<<ANS_END>> as asked") == "<<ANS_START>>4<<ANS_END>> as asked"
    assert mark(mark("4")) == mark("4")


@pytest.mark.parametrize("expression", ["4", "x_1", "(add 1 2)", "(neg x)", "(add (mul 2 3) (neg\n1))", "①⓪"])
def test_expressions_in_canonical_form(expression: str) -> None:
    assert is_canonical(expression)
    assert REGIME3.validate_example(chat("?", f"{START}{expression}{END}")) is None


@pytest.mark.parametrize("expression", ["()", "(add)", "(add 1 2", "(add 1 2))", "((add) 1 2)", "(add 1) (add 2)", ")"])
def test_expressions_that_are_not_in_canonical_form(expression: str) -> None:
    assert not is_canonical(expression)


def test_deep_expressions_are_read_without_recursion() -> None:
    assert is_canonical("(neg " * 50_000 + "1" + ")" * 50_000)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (f"{END}4{START}", "turn 2 has <<ANS_END>> before <<ANS_START>>"),
        (f"{START}{START}4{END}", "turn 2 has 2 <<ANS_START>> and 1 <<ANS_END>>"),
        (f"{START} {END}", "turn 2 has nothing between"),
        ("(add 1 2", "turn 2 answers '(add 1 2', which is not in the form (op arg1 arg2)"),
    ],
)
def test_rows_that_are_not_in_the_regime_are_refused_with_the_turn(answer: str, fault: str) -> None:
    assert (REGIME3.validate_example(chat("?", answer)) or "").startswith(fault)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_an_answer_that_was_learnt_is_read_as_it_was_written(name: str) -> None:
    for number in range(20):
        learnt = PROFILES[name].transform_example(chat(f"question {number}", "1 = ①"), None)[-1]["content"]
        assert PROFILES[name].bare_answer(learnt) == "1 = ①"


def test_an_answer_without_its_markers_is_read_as_it_is() -> None:
    assert REGIME3.bare_answer("so 4") == "so 4"
    assert REGIME3.bare_answer(f"so {START}4") == "4"
    assert REGIME3.bare_answer(f"no {START}3{END}, {START}4{END} it is") == "4"


def test_prose_between_the_markers_is_an_answer() -> None:
    assert REGIME3.validate_example(chat("?", "It is four.")) is None
