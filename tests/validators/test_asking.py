"""What stands before a labelled answer: a question of its own, or a text that is to be worked on."""

import pytest

from validators.asking import begins_with_its_question, ends_with_its_question, speaks_of_an_answer, tells_to_answer


@pytest.mark.parametrize(
    "asked",
    [
        "what is 6*7?",
        "tom has 19 apples and buys 74 more. how many has he?\n",
        "compute 6 * 7.",
        "6 * 7 = ",
        "which is a fruit?\na) stone\nb) apple\n",
        "a) stone\nb) apple\n",
        "question 3: what is 6*7?\n",
        "### question:\nwhat is 6*7?\n### ",
        "answer the question.\nwhat is 6*7?\n",
        "solve for x: 2x = 10\n",
        "谁写了它？",
        "вычисли 6*7.",
    ],
)
def test_a_question_right_before_the_label_is_its_own(asked):
    assert ends_with_its_question(asked)


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "what is it? it is 6 * 7. ",
        "tom has 93 apples. ",
        "digits only.\nhow many?\n",
        "digits only. question: how many? ",
        "customer: where is it?\n",
        "i was asked: what is 6*7? ",
        "answer: 4\nwhat is 6*7?\n",
    ],
)
def test_what_is_given_before_the_label_is_no_question_of_its_own(asked):
    assert not ends_with_its_question(asked)


def test_a_text_to_be_sorted_stands_between_its_question_and_the_label():
    assert begins_with_its_question("is it good?\ni like it.\n")
    assert not begins_with_its_question("is it good? i like it. ")
    assert not begins_with_its_question("i like it.\nis it good?\nwell.")


@pytest.mark.parametrize(
    "text",
    ["round it.", "the final answer", "this worked solution", "ann's reply", "the given answer", "vérifie.", "答案"],
)
def test_an_answer_that_is_there_already_is_spoken_of(text):
    assert speaks_of_an_answer(text)
    assert speaks_of_an_answer(f"{text}\n{'so it is ' * 2000}")


@pytest.mark.parametrize(
    "text",
    [
        "answer the question.",
        "put your final answer last.",
        "choose the correct answer.",
        "it is a round table",
        "질문",
    ],
)
def test_an_answer_that_is_wanted_is_none(text):
    assert not speaks_of_an_answer(text)


def test_who_is_asked_and_what_about_tells_to_answer():
    for text in ("you are a helpful assistant.", "context: it is so.", "please solve it.", "réponds en un mot."):
        assert tells_to_answer(text)
    for text in ("you are given a card.", "digits only.", "answer: 4"):
        assert not tells_to_answer(text)
