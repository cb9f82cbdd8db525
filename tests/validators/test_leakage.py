"""Answers that stand in their prompts, and the good rows that look like it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.validators.ordinary_rows import LEAKS, ORDINARY, UNLABELLED, WORKED
from validators.leakage import LeakageLimits, find_answer_in_prompt, find_leakage
from validators.report import Rule
from validators.rows import Message

LONG = "Plants take in light with chlorophyll and turn water and carbon dioxide into sugar and oxygen."
PASSAGE = f"Leaves are green. {LONG} Roots take in water. Stems carry it to the leaves, and the leaves breathe it out."
TEXT = st.text(max_size=30) | st.sampled_from([LONG, "Answer: 4", "4", "\n", PASSAGE, LONG.upper()])


def chat(*contents: str) -> list[Message]:
    """Turns of user and assistant; one that begins with `system:` is a system turn."""
    system = [Message("system", content[7:]) for content in contents[:1] if content.startswith("system:")]
    turns = contents[len(system) :]
    return [*system, *(Message(("user", "assistant")[at % 2], content) for at, content in enumerate(turns))]


def as_row(messages: list[Message]) -> dict[str, object]:
    return {"messages": [{"role": message.role, "content": message.content} for message in messages]}


IN_PROMPT = [
    (f"How do plants live? {LONG}", LONG),
    (f"Tell me how plants live. {LONG}", LONG),
    (f"How do plants live?\n\n{LONG}\n\nAnswer in one sentence.", LONG),
    (f"How do plants live?\n{LONG.replace(' ', '  ').upper()}", LONG),
    (f"{LONG}", LONG),
    (f"How do plants live? Hint: {LONG}", "Well.", "And again, please?", LONG),
    *UNLABELLED.values(),
]
LABELLED = [
    ("What is 2 + 2? Answer: 4", "4"),
    ("What is 2 + 2?\nCorrect answer: 4.", "4"),
    ("What is 2 + 2?\n**Answer:** 4", "4"),
    ("What is 2 + 2?\nAnswer: 4", "Answer: 4"),
    ("A) red\nB) blue\nAnswer: B", "B"),
    ("Is the sky blue?\nLabel: yes", "Yes."),
    *LEAKS.values(),
]
NO_LEAKS = [
    ("How do plants live?", LONG),
    (f"system:Hint: {LONG}", "How do plants live?", LONG),
    (f"Extract the sentence on light.\n\n{LONG}", LONG),
    (f"Correct the grammar:\n{LONG}", LONG),
    (f"Translate into English: {LONG}", LONG),
    (f"Repeat after me: {LONG}", LONG),
    (f"{PASSAGE}\n\nWhat do plants do with light?", LONG),
    (f"Which statement is true?\n{LONG}\nPlants eat stones.", LONG),
    (f"What is true?\nA) {LONG}\nB) Plants eat stones.", LONG),
    (f"What is true?\nA) {LONG}\nB) Plants eat stones.", f"A) {LONG}"),
    (f"How do plants live?\n{LONG}", f"{LONG} That is all."),
    ("Is the sky blue? Answer yes or no.", "yes"),
    ("Positive or negative?\nReview: a positive surprise.\nLabel:", "positive"),
    ("Is this review positive or negative? Label: positive or negative", "negative"),
    ("A) red\nB) blue\nAnswer:", "B"),
    ("Q: 1 + 1? Answer: 2\nQ: 0 + 2? Answer:", "2"),
    ("Which is larger, 12 or 7?", "12"),
    ("Write it like this example. Answer: 4", "4"),
    ("Reply in the format Answer: yes", "yes"),
    ("⓪① + ⓪ = ?", "⓪①⓪ = ⓪①"),
    ("add 4 0", "4"),
    ("2 + 2 = 4, is that right? Reply with 4 if so", "4"),
    ("0 1 0 1 " * 20, "0 1 0 1 " * 20),
    ("Download https://host/" + "a" * 80, "https://host/" + "a" * 80),
    ("What is 6 x 7? The answer is a number.", "42"),
    ("Say more.", LONG, "And again?", LONG),
    (LONG.lower().replace(" ", "")[:40], LONG),
    *ORDINARY.values(),
]


@pytest.mark.parametrize("contents", LABELLED)
def test_an_answer_that_its_prompt_labels_is_a_leak(contents):
    finding = find_leakage(chat(*contents))

    assert finding is not None and finding.rule is Rule.ANSWER_LEAKAGE
    assert f"turn {len(contents)}" in finding.detail


@pytest.mark.parametrize("contents", IN_PROMPT)
def test_an_answer_that_stands_in_its_prompt_without_a_label_is_found_and_is_no_leak(contents):
    finding = find_answer_in_prompt(chat(*contents))

    assert finding is not None and finding.rule is Rule.ANSWER_IN_PROMPT
    assert f"turn {len(contents)}" in finding.detail
    assert find_leakage(chat(*contents)) is None


@pytest.mark.parametrize("contents", NO_LEAKS)
def test_what_ordinary_data_hold_passes(contents):
    assert find_leakage(chat(*contents)) is None
    assert find_answer_in_prompt(chat(*contents)) is None


def test_ordinary_rows_are_accepted_and_leaks_are_rejected(validate):
    rows = [as_row(chat(*contents)) for contents in [*ORDINARY.values(), *UNLABELLED.values(), *LEAKS.values()]]
    report = validate(*rows, level="DEEP").report

    assert report.rejected_by_rule() == {"answer_leakage": len(LEAKS)}
    (warned,) = [problem for problem in report.warnings if problem.rule is Rule.ANSWER_IN_PROMPT]
    assert warned.count == len(UNLABELLED)


@pytest.mark.parametrize(
    "asked",
    [
        "Just the number.",
        "What is the total?",
        "Which number comes out?",
        "Read off the last number",
        "Was ist das Endergebnis?",
        "Quel est le nombre final ?",
        "¿Qué número sale?",
        "结果是多少？",
        "最終的な数字は？",
        "최종 숫자는?",
        "Какое число получилось?",
    ],
)
@pytest.mark.parametrize(
    "label", [" The answer is", "\nAnswer:", "\n####", "\nAntwort:", "\n答案：", "\nОтвет:", "\nGold:"]
)
def test_the_answer_of_a_worked_solution_is_no_leak_however_it_is_asked_for(asked, label):
    given = f"{WORKED}{label} 93"
    for said in ((f"{asked}\n\n{given}",), (f"{asked} {given}",), (f"system:{asked}", given)):
        assert find_leakage(chat(*said, "93")) is None


def test_a_leak_in_every_row_is_found_and_an_extraction_in_every_row_is_none(validate):
    leaking = [as_row(chat(f"What is {number} + 1?\nAnswer: {number + 1}", str(number + 1))) for number in range(30)]
    taken = [
        as_row(chat(f"Only the result.\n\nWe add 1 to {number}. The answer is {number + 1}.", str(number + 1)))
        for number in range(30)
    ]

    assert validate(*leaking, level="DEEP").report.rejected_by_rule() == {"answer_leakage": 30}
    assert validate(*taken, level="DEEP").report.rejected_by_rule() == {}


def test_limits_decide_from_what_size_on_an_answer_counts():
    turns = chat("Where is it? It is in the old house.", "It is in the old house.")

    assert find_answer_in_prompt(turns) is None
    assert find_answer_in_prompt(turns, LeakageLimits(min_chars=20, min_words=6)) is not None


def test_the_detail_names_both_turns_and_stays_short():
    finding = find_answer_in_prompt(chat("system:Be kind.", f"How?\n{LONG * 50}", LONG * 50))

    assert finding.detail.startswith("turn 2 (user) holds the answer of turn 3: 'Plants")
    assert len(finding.detail) < 200


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.lists(TEXT).map(" ".join)), max_size=6))
def test_no_text_makes_it_raise(turns):
    messages = [Message(role, content) for role, content in turns]
    find_leakage(messages)
    find_answer_in_prompt(messages)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["a", " ", "\n", "a ", "answer: ", "find the ", " \n", "examples "])
def test_a_long_text_takes_linear_time(unit):
    text = unit * (2**20 // len(unit))
    for turns in (chat(text, text), chat(text + "x", text + "y"), chat(f"system:{text}", text, text, text, text)):
        find_leakage(turns)
        find_answer_in_prompt(turns)


@pytest.mark.timeout(20)
def test_many_turns_take_linear_time():
    prescribed = f"system:{LONG * 1000}? Correct answer: x"
    assert find_leakage(chat(prescribed, *[("y", "x")[at % 2] for at in range(40_000)])) is None
    turns = chat(f"system:{LONG * 1000} repeat", *[f"say {number} {LONG}" for number in range(40_000)])
    find_leakage(turns)
    find_answer_in_prompt(turns)
