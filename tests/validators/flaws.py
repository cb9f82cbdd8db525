"""More of `defects.py`: answers that stand in their prompts or are no good text, and what should stand in no text.

`DEFECTS` and `NEAR_MISSES` are complete from here on.
"""

import json
import random
import string

from benchmarks.rows import Row, prose, sentence, topic, vocabulary
from tests.validators.defects import DEFECTS, NEAR_MISSES, chat, defect, letters, near_miss, told, with_end
from validators import Rule

__all__ = ["DEFECTS", "NEAR_MISSES"]

_QUESTIONS = ("How does {} work?", "Why is {} so slow?", "Calculate {}.", "What is {}?")

# What gives the answer away


def _question(generator: random.Random) -> str:
    """A question behind what it is about, in one paragraph."""
    about = " ".join(prose(generator, 200).split())
    return f"{about} {generator.choice(_QUESTIONS).format(topic(generator))}"


@defect(Rule.ANSWER_LEAKAGE)
def labelled_answer(generator: random.Random, row: Row) -> Row:
    answer = str(generator.randint(10, 9999))
    label = generator.choice(
        ("Answer:", "Correct answer:", "The answer is:", "**Solution:**", "Expected output:", "Ground truth:", "####")
    )
    return chat(f"{_question(generator)}\n{label} {answer}", answer)


@defect(Rule.ANSWER_LEAKAGE)
def answer_stated_in_another_language(generator: random.Random, row: Row) -> Row:
    answer = str(generator.randint(10, 9999))
    label = generator.choice(("Antwort:", "La réponse est", "Respuesta:", "Risposta:", "答案：", "Ответ:"))
    return chat(f"{_question(generator)}\n{label} {answer}", answer)


@near_miss(Rule.ANSWER_LEAKAGE)
def answer_of_a_worked_solution(generator: random.Random, row: Row) -> Row:
    one, two = generator.randint(10, 99), generator.randint(10, 99)
    asked = generator.choice(("Only the number of", "What comes out of", "Put in digits:"))
    worked = f"{asked} {topic(generator)}?\n\n{prose(generator, 120)} It is {one} + {two} = {one + two}."
    return chat(f"{worked}{generator.choice((' The answer is', chr(10) + 'Answer:'))} {one + two}", str(one + two))


@near_miss(Rule.ANSWER_LEAKAGE)
def answer_of_a_record(generator: random.Random, row: Row) -> Row:
    number = str(generator.randint(10, 99))
    return chat(f"{sentence(generator)}\nQuestion: {_question(generator)}\nAnswer: {number}", number)


@near_miss(Rule.ANSWER_LEAKAGE)
def answer_that_the_system_turn_prescribes(generator: random.Random, row: Row) -> Row:
    refusal = sentence(generator, words=20)
    system = {"role": "system", "content": f"If there is none, reply with:\n{refusal}"}
    return {"messages": [system, *chat(prose(generator, 120), refusal)["messages"]]}


@near_miss(Rule.ANSWER_LEAKAGE)
def answer_repeated_in_a_later_turn(generator: random.Random, row: Row) -> Row:
    answer = sentence(generator, words=20)
    later = chat(f"Repeat it word for word, {topic(generator)}.", answer)
    return {"messages": [*chat(answer, prose(generator, 120))["messages"], *later["messages"]]}


@defect(Rule.ANSWER_IN_PROMPT)
def answer_at_the_end(generator: random.Random, row: Row) -> Row:
    answer = sentence(generator, words=20)
    return chat(f"{prose(generator, 200)}\n\n{answer}", answer)


@defect(Rule.ANSWER_IN_PROMPT)
def answer_on_lines_of_its_own(generator: random.Random, row: Row) -> Row:
    answer = f"{sentence(generator, words=14)}\n{sentence(generator, words=14)}"
    return chat(f"{prose(generator, 200)}\n{answer}\n{prose(generator, 200)}", answer)


@near_miss(Rule.ANSWER_LEAKAGE)
def operand_as_answer(generator: random.Random, row: Row) -> Row:
    number = generator.randint(10, 99)
    return chat(f"{prose(generator, 160)} What is {number} + 0? And what is {number} * 1?", str(number))


@near_miss(Rule.ANSWER_IN_PROMPT)
def extract(generator: random.Random, row: Row) -> Row:
    answer = sentence(generator, words=14)
    passage = f"{sentence(generator, words=9)} {answer} {sentence(generator, words=15)}"
    return chat(f"Quote the sentence that matters.\n{passage}", answer)


@near_miss(Rule.ANSWER_IN_PROMPT)
def asked_to_repeat(generator: random.Random, row: Row) -> Row:
    answer = sentence(generator, words=40)
    return chat(f"Repeat after me:\n{answer}", answer)


@near_miss(Rule.ANSWER_IN_PROMPT)
def option_as_answer(generator: random.Random, row: Row) -> Row:
    options = [sentence(generator, words=14) for _ in range(3)]
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip("abc", options, strict=True))
    return chat(f"{sentence(generator)}\n{listed}", options[2])


# Repetition


@defect(Rule.REPETITION)
def word_five_times(generator: random.Random, row: Row) -> Row:
    return told(generator, f"{sentence(generator)} {' '.join([generator.choice(vocabulary('latin'))] * 5)} and so on.")


@defect(Rule.REPETITION)
def sentence_twice(generator: random.Random, row: Row) -> Row:
    again = sentence(generator)
    return told(generator, f"{sentence(generator)} {again} {again} {sentence(generator)}")


@defect(Rule.REPETITION)
def phrase_again_and_again(generator: random.Random, row: Row) -> Row:
    phrase = " ".join(generator.choices(vocabulary("latin"), k=4))
    return told(generator, " ".join(f"{phrase} {sentence(generator, words=4)}" for _ in range(8)))


@near_miss(Rule.REPETITION)
def word_four_times(generator: random.Random, row: Row) -> Row:
    return told(generator, f"{sentence(generator)} {' '.join([generator.choice(vocabulary('latin'))] * 4)} and so on.")


@near_miss(Rule.REPETITION)
def digits_that_repeat(generator: random.Random, row: Row) -> Row:
    return told(generator, f"It is 0.{str(generator.randint(1, 9)) * 30}, or ⓪⓪⓪⓪⓪⓪⓪⓪⓪⓪①①①①①①①①①①①.")


@near_miss(Rule.REPETITION)
def code_that_repeats(generator: random.Random, row: Row) -> Row:
    call = f"{generator.choice(vocabulary('latin'))}.step()\n"
    return told(generator, f"{sentence(generator)}\n```python\n{call * 12}```\n{sentence(generator)}")


# No text


@defect(Rule.DEGENERATE)
def marks_alone(generator: random.Random, row: Row) -> Row:
    return told(generator, generator.choice(("...", "?!?!?!", "- - - -", "***", "……")))


@defect(Rule.DEGENERATE)
def character_ten_times(generator: random.Random, row: Row) -> Row:
    return told(generator, f"{sentence(generator)} {generator.choice('aé日!?,🔥') * 10}")


@near_miss(Rule.DEGENERATE)
def character_nine_times(generator: random.Random, row: Row) -> Row:
    return told(generator, f"{sentence(generator)} N{'o' * 9}! {'-' * 40} {'=' * 40} 10000000000000000")


@near_miss(Rule.DEGENERATE)
def sign_as_answer(generator: random.Random, row: Row) -> Row:
    return told(generator, generator.choice(("+", "<", ">=", "?", "C#", "¬p")))


@defect(Rule.MOJIBAKE)
def wrong_encoding(generator: random.Random, row: Row) -> Row:
    text = generator.choice(("Die Straße ist für alle schön", "déjà vu à la façade", "naïve piñata — “quoted”"))
    return with_end(row, f"{sentence(generator)} {text.encode().decode('cp1252', 'ignore')}")


@defect(Rule.MOJIBAKE)
def lost_bytes(generator: random.Random, row: Row) -> Row:
    return with_end(row, f"{sentence(generator)} caf\ufffd")


@near_miss(Rule.MOJIBAKE)
def right_encoding(generator: random.Random, row: Row) -> Row:
    return with_end(
        row, f"{sentence(generator)} Die Straße ist für alle schön: déjà vu, ÂGE, piñata — “€5”, Ãlvaro. Ø × ÷"
    )


# JSON and code


@defect(Rule.BROKEN_JSON)
def json_cut_off(generator: random.Random, row: Row) -> Row:
    whole = json.dumps({topic(generator): sentence(generator), "list": [1, 2, {"a": sentence(generator)}]})
    return told(generator, whole[: -generator.randint(1, 20)])


@defect(Rule.BROKEN_JSON)
def json_fence_with_a_comment(generator: random.Random, row: Row) -> Row:
    return told(generator, f'{sentence(generator)}\n```json\n{{"a": 1, // {topic(generator)}\n"b": [2, 3,]}}\n```')


@near_miss(Rule.BROKEN_JSON)
def braces_that_are_no_json(generator: random.Random, row: Row) -> Row:
    name = generator.choice(vocabulary("latin"))
    return told(
        generator,
        generator.choice(
            (
                f"{{{name}}} {sentence(generator)}",
                f"[{name}s] {sentence(generator)}",
                f"{{'{name}': 1}} {sentence(generator)}",
            )
        ),
    )


@near_miss(Rule.BROKEN_JSON)
def json_then_prose(generator: random.Random, row: Row) -> Row:
    return told(generator, f'{{"{topic(generator)}": [1, 2]}}\n\n{sentence(generator)}')


@near_miss(Rule.BROKEN_JSON)
def sketched_json(generator: random.Random, row: Row) -> Row:
    return told(generator, f'{sentence(generator)}\n```json\n{{"{topic(generator)}": ...}}\n```')


@defect(Rule.BROKEN_CODE)
def python_that_does_not_parse(generator: random.Random, row: Row) -> Row:
    name = generator.choice(vocabulary("latin"))
    broken = generator.choice(
        (f"def {name}(a)\n    return a", f"for {name} in range(3:\n    pass", f"x = '{name}\ny = 1")
    )
    return told(generator, f"{sentence(generator)}\n```python\n{broken}\n```")


@defect(Rule.BROKEN_CODE)
def fence_never_closed(generator: random.Random, row: Row) -> Row:
    return told(generator, f"{sentence(generator)}\n```\n{topic(generator)}\n{topic(generator)}")


@near_miss(Rule.BROKEN_CODE)
def code_of_another_language(generator: random.Random, row: Row) -> Row:
    return told(
        generator, f"{sentence(generator)}\n```javascript\nlet {topic(generator)} = (a) => {{\n```\nand `x = (`."
    )


@near_miss(Rule.BROKEN_CODE)
def session_and_shell(generator: random.Random, row: Row) -> Row:
    name = generator.choice(vocabulary("latin"))
    return told(
        generator,
        f"{sentence(generator)}\n```python\n>>> {name}(\n... 1)\n```\n```py\n!pip install {name}\nimport {name}\n```",
    )


# Protocol


@defect(Rule.PROTOCOL_MIX)
def thinks_and_never_stops(generator: random.Random, row: Row) -> Row:
    return told(generator, f"{generator.choice('🤔💭🧠') * generator.randint(2, 6)}\n{prose(generator, 120)}")


@defect(Rule.PROTOCOL_MIX)
def think_tag_never_closed(generator: random.Random, row: Row) -> Row:
    return told(generator, f"<think>\n{prose(generator, 120)}")


@near_miss(Rule.PROTOCOL_MIX)
def thinks_and_stops(generator: random.Random, row: Row) -> Row:
    return told(generator, f"{'🤔' * 3}\n{prose(generator, 120)}\n{'🛑' * 3}")


@near_miss(Rule.PROTOCOL_MIX)
def one_emoji(generator: random.Random, row: Row) -> Row:
    return told(generator, f"🤔 {prose(generator, 120)} <think>")


# Personal data and secrets


@defect(Rule.PERSONAL_DATA)
def address_or_number(generator: random.Random, row: Row) -> Row:
    name = generator.choice(vocabulary("latin"))
    number = letters(generator, "23456789", 9)
    found = (
        f"{name}.{generator.choice(vocabulary('latin'))}@{name}mail.de",
        f"+49 30 {number[:4]} {number[4:8]}",
        f"+1 (415) 6{number[:2]}-{number[2:6]}",
        f"{generator.randint(100, 665)}-{generator.randint(10, 99)}-{generator.randint(1000, 9999)}",
        _card(generator),
        _iban(generator),
    )
    return with_end(row, f"{sentence(generator)} You reach me under {generator.choice(found)} at any time.")


@near_miss(Rule.PERSONAL_DATA)
def example_address_or_number(generator: random.Random, row: Row) -> Row:
    card = _card(generator)
    found = (
        f"{generator.choice(vocabulary('latin'))}@example.com",
        "+1 555 0100 and +1 (212) 555-0123",
        "4242 4242 4242 4242",
        card[:-1] + str((int(card[-1]) + 1) % 10),
        _iban(generator)[:-1] + "X",
        "10.0.0.1, 2024-01-01, 1.2.3-45-6789, 3.141592653589793, 100000007 + 12345678901",
        "@decorator, git@github.com:a/b.git, npm i x@1.2.3",
    )
    return with_end(row, f"{sentence(generator)} See {generator.choice(found)} and others.")


@defect(Rule.SECRET)
def key_or_password(generator: random.Random, row: Row) -> Row:
    mixed = string.ascii_letters + string.digits
    found = (
        "AKIA" + letters(generator, string.ascii_uppercase + "234567", 16),
        "ghp_" + letters(generator, mixed, 36),
        "hf_" + letters(generator, mixed, 34),
        "sk-" + letters(generator, mixed, 20) + "7" + letters(generator, mixed, 20),
        f'password = "{letters(generator, mixed, 12)}4x"',
        f"-----BEGIN PRIVATE KEY-----\n{letters(generator, mixed + '+/', 64)}\n-----END PRIVATE KEY-----",
    )
    return with_end(row, f"{sentence(generator)} {generator.choice(found)}")


@near_miss(Rule.SECRET)
def placeholder_of_a_key(generator: random.Random, row: Row) -> Row:
    found = (
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "x" * 36,
        "hf_your_token_here",
        "sk-...",
        "password = 'changeme1'",
        f"password = '{topic(generator)}'",
        "secret: <SECRET_KEY_1>",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        "risk-free task-oriented sha256 " + letters(generator, "0123456789abcdef", 64),
    )
    return with_end(row, f"{sentence(generator)} {generator.choice(found)}")


def _card(generator: random.Random) -> str:
    digits = "4" + letters(generator, string.digits, 14)
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[::2])
    check = -(sum(map(int, digits[1::2])) + sum(doubled)) % 10
    number = f"{digits}{check}"
    return " ".join(number[place : place + 4] for place in range(0, 16, 4))


def _iban(generator: random.Random) -> str:
    account = letters(generator, string.digits, 18)
    check = 98 - int(f"{account}131400") % 97
    return f"DE{check:02}{account}"
