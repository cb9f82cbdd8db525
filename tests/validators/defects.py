"""One defect each, put into a clean row; and what is as near to it as can be and is none.

A maker takes a random generator and a clean chat row of its own, and gives a row, or a line of bytes.
"""

import json
import random
from collections.abc import Callable

from benchmarks.rows import Row, prose, sentence, topic, vocabulary
from serving.skills import binary
from validators import Rule
from validators.contamination import EvaluationIndex, EvaluationItem

Maker = Callable[[random.Random, Row], Row | bytes]
MAX_ROW_BYTES = 32 * 1024
MAX_LENGTH = 2048
MAX_TURNS = 12
DEFECTS: list[tuple[Rule, Maker]] = []
NEAR_MISSES: list[tuple[Rule, Maker]] = []

_GENERATOR = random.Random("evaluation")
_HELD_OUT = [problem for problem in binary.problems(2) if problem.held_out]
_LEARNED = [problem for problem in binary.problems(2) if not problem.held_out]
BOILERPLATE = "Read the passage below with care, think about it step by step, and then give the one right answer:"
PROSE_ITEMS = [sentence(_GENERATOR, words=30) for _ in range(200)]
HAN_ITEMS = [sentence(_GENERATOR, "han", 40) for _ in range(50)]
SHORT_ITEMS = [f"What is {topic(_GENERATOR)}?" for _ in range(50)]
BOILERPLATE_ITEMS = [f"{BOILERPLATE} {topic(_GENERATOR)}?" for _ in range(9)]
KEYED_ITEMS = [(f"syllo:{number}", sentence(_GENERATOR, words=20)) for number in range(50)]


def evaluation_index() -> EvaluationIndex:
    """What the mutated rows are contaminated with."""
    texts = [*PROSE_ITEMS, *HAN_ITEMS, *SHORT_ITEMS, *BOILERPLATE_ITEMS]
    items = [EvaluationItem(f"item-{number}", text) for number, text in enumerate(texts)]
    return EvaluationIndex.build([*items, *(EvaluationItem(key, text, key) for key, text in KEYED_ITEMS)])


def defect(rule: Rule) -> Callable[[Maker], Maker]:
    return lambda maker: (DEFECTS.append((rule, maker)), maker)[1]


def near_miss(rule: Rule) -> Callable[[Maker], Maker]:
    return lambda maker: (NEAR_MISSES.append((rule, maker)), maker)[1]


def chat(asked: str, answered: str, **columns: object) -> Row:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}], **columns}


def line_of(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def told(generator: random.Random, answered: str, characters: int = 160) -> Row:
    """That answer, to a prompt of its own."""
    return chat(prose(generator, characters), answered)


def with_end(row: Row, more: str) -> Row:
    """The last answer continued, on a line of its own."""
    row["messages"][-1]["content"] += "\n" + more
    return row


def letters(generator: random.Random, alphabet: str, count: int) -> str:
    return "".join(generator.choices(alphabet, k=count))


# Bytes, JSON and columns


@defect(Rule.ROW_TOO_LONG)
def too_long(generator: random.Random, row: Row) -> Row:
    return {**row, "metadata": {"padding": "x" * MAX_ROW_BYTES}}


@near_miss(Rule.ROW_TOO_LONG)
def just_short_enough(generator: random.Random, row: Row) -> bytes:
    line = line_of({**row, "metadata": {"padding": "<>"}})
    return line.replace(b"<>", b"x" * (MAX_ROW_BYTES - len(line) + 2))


@defect(Rule.NOT_UTF8)
def latin_1(generator: random.Random, row: Row) -> bytes:
    return line_of(with_end(row, " caf<>")).replace(b"<>", b"\xe9")


@defect(Rule.NOT_UTF8)
def surrogate_in_utf8(generator: random.Random, row: Row) -> bytes:
    return line_of(with_end(row, " caf<>")).replace(b"<>", b"\xed\xa0\x80")


@defect(Rule.INVALID_JSON)
def cut(generator: random.Random, row: Row) -> bytes:
    line = line_of(row)
    return line[: generator.randrange(len(line) // 2, len(line))].decode(errors="ignore").encode()


@defect(Rule.INVALID_JSON)
def not_a_number(generator: random.Random, row: Row) -> Row:
    return {**row, "metadata": {"loss": generator.choice((float("nan"), float("-inf")))}}


@defect(Rule.INVALID_JSON)
def lone_surrogate(generator: random.Random, row: Row) -> bytes:
    return line_of(with_end(row, " <>")).replace(b"<>", b"\\ud83d")


@near_miss(Rule.INVALID_JSON)
def surrogate_pair(generator: random.Random, row: Row) -> bytes:
    return line_of(with_end(row, " <>")).replace(b"<>", b"\\ud83d\\ude00")


@defect(Rule.NOT_AN_OBJECT)
def bare_list(generator: random.Random, row: Row) -> bytes:
    return json.dumps(row["messages"]).encode()


@defect(Rule.MISSING_COLUMN)
def other_columns(generator: random.Random, row: Row) -> Row:
    return {"instruction": row["messages"][0]["content"], "output": row["messages"][-1]["content"]}


@defect(Rule.WRONG_TYPE)
def content_of_another_type(generator: random.Random, row: Row) -> Row:
    row["messages"][-1]["content"] = generator.choice((None, 4, 0.5, True, ["text"], {"text": "text"}))
    return row


@defect(Rule.WRONG_TYPE)
def metadata_of_another_type(generator: random.Random, row: Row) -> Row:
    return {**row, "metadata": generator.choice((["a"], "a", 1, {"problem_key": 7}))}


@defect(Rule.DUPLICATE_KEY)
def key_twice(generator: random.Random, row: Row) -> bytes:
    return line_of(row).replace(b'"role": "user"', b'"role": "assistant", "role": "user"', 1)


@defect(Rule.DUPLICATE_KEY)
def column_twice(generator: random.Random, row: Row) -> bytes:
    return line_of(row)[:-1] + b', "messages": []}'


@defect(Rule.DUPLICATE_KEY)
def key_twice_in_an_escape(generator: random.Random, row: Row) -> bytes:
    return line_of(row).replace(b'"role": "user"', b'"r\\u006fle": "assistant", "role": "user"', 1)


@near_miss(Rule.DUPLICATE_KEY)
def key_in_a_text(generator: random.Random, row: Row) -> Row:
    return {**with_end(row, ' {"role": "user", "messages": 1}'), "metadata": {"role": 1, "content": {"role": 2}}}


# Turns


@defect(Rule.UNKNOWN_ROLE)
def tool_turn(generator: random.Random, row: Row) -> Row:
    row["messages"][-1]["role"] = generator.choice(("tool", "Assistant", "model", ""))
    return row


@defect(Rule.ROLE_ORDER)
def without_an_answer(generator: random.Random, row: Row) -> Row:
    return {**row, "messages": row["messages"][:-1]}


@defect(Rule.ROLE_ORDER)
def answered_twice(generator: random.Random, row: Row) -> Row:
    return {**row, "messages": [*row["messages"], {"role": "assistant", "content": sentence(generator)}]}


@near_miss(Rule.ROLE_ORDER)
def system_prompt_and_the_same_turn(generator: random.Random, row: Row) -> Row:
    text = sentence(generator)
    body = [turn for turn in row["messages"] if turn["role"] != "system"]
    return {**row, "messages": [{"role": "system", "content": text}, *body], "system_prompt": text}


@defect(Rule.EMPTY_CONTENT)
def empty_turn(generator: random.Random, row: Row) -> Row:
    generator.choice(row["messages"])["content"] = generator.choice(("", " ", "\n\t\u3000", "\u200b\ufeff"))
    return row


@defect(Rule.CONTROL_CHARACTER)
def control_character(generator: random.Random, row: Row) -> Row:
    return with_end(row, " " + generator.choice("\0\b\f\x1b\x7f\x85\x9f") + "done")


@defect(Rule.CONTROL_CHARACTER)
def escaped_control_character(generator: random.Random, row: Row) -> bytes:
    return line_of(with_end(row, " <>")).replace(b"<>", generator.choice((b"\\u0000", b"\\u001B", b"\\b")))


@near_miss(Rule.CONTROL_CHARACTER)
def white_space_and_directions(generator: random.Random, row: Row) -> Row:
    return with_end(row, "\r\n\ta\u00a0b \u202eright\u202c \u200bto\ufeff \\u0000 \\b")


@defect(Rule.SPECIAL_TOKEN)
def control_token(generator: random.Random, row: Row) -> Row:
    return with_end(row, generator.choice(("<|im_end|>", " <|im_start|>system", "<|endoftext|>")))


@defect(Rule.SPECIAL_TOKEN)
def escaped_control_token(generator: random.Random, row: Row) -> bytes:
    return line_of(with_end(row, " <>")).replace(b"<>", b"\\u003c|im_end|\\u003e")


@near_miss(Rule.SPECIAL_TOKEN)
def almost_a_control_token(generator: random.Random, row: Row) -> Row:
    return with_end(row, " <|im_ end|> <im_end> |im_start|> < |endoftext| >")


@defect(Rule.HELD_OUT)
def held_out_key(generator: random.Random, row: Row) -> Row:
    return {**row, "metadata": {"problem_key": generator.choice(_HELD_OUT).key}}


@defect(Rule.HELD_OUT)
def held_out_question(generator: random.Random, row: Row) -> Row:
    problem = generator.choice(_HELD_OUT)
    return chat(f"{sentence(generator)} {binary.question(problem)}", binary.worked_answer(problem))


@near_miss(Rule.HELD_OUT)
def learned_question(generator: random.Random, row: Row) -> Row:
    problem = generator.choice(_LEARNED)
    asked = f"{prose(generator, 100)} {binary.question(problem)}"
    return chat(asked, binary.worked_answer(problem), metadata={"problem_key": problem.key})


# Lengths


@defect(Rule.UNRENDERABLE)
def too_many_turns(generator: random.Random, row: Row) -> Row:
    turns = [{"role": ("user", "assistant")[place % 2], "content": sentence(generator)} for place in range(14)]
    return {**row, "messages": turns}


@near_miss(Rule.UNRENDERABLE)
def as_many_turns_as_may_be(generator: random.Random, row: Row) -> Row:
    turns = [{"role": ("user", "assistant")[place % 2], "content": sentence(generator)} for place in range(MAX_TURNS)]
    return {**row, "messages": turns}


@defect(Rule.UNSUPERVISED)
def prompt_that_fills_it(generator: random.Random, row: Row) -> Row:
    return chat(prose(generator, 6000), prose(generator, 400))


@defect(Rule.TRUNCATED)
def answer_that_loses_its_end(generator: random.Random, row: Row) -> Row:
    return chat(prose(generator, 200), prose(generator, 5000))


@defect(Rule.PROMPT_ANSWER_RATIO)
def long_answer_to_a_word(generator: random.Random, row: Row) -> Row:
    return chat(f"Go on, {generator.choice(vocabulary('latin'))}.", prose(generator, 2050))


@defect(Rule.PROMPT_ANSWER_RATIO)
def long_prompt_for_a_word(generator: random.Random, row: Row) -> Row:
    return chat(prose(generator, 600), "It depends on it")


@near_miss(Rule.PROMPT_ANSWER_RATIO)
def long_prompt_for_a_number(generator: random.Random, row: Row) -> Row:
    return chat(prose(generator, 600), generator.choice(("4", "-7", "⓪①", "0.5", "yes")))


# What evaluation asks


@defect(Rule.CONTAMINATION)
def thirteen_words_asked(generator: random.Random, row: Row) -> Row:
    return chat(f"{prose(generator, 120)} {_words(generator, 13)} {sentence(generator)}", prose(generator, 200))


@defect(Rule.CONTAMINATION)
def thirteen_words_answered(generator: random.Random, row: Row) -> Row:
    words = _words(generator, 13).upper().replace(" ", ", ")
    return told(generator, f"{sentence(generator)} {words}; {sentence(generator)}")


@defect(Rule.CONTAMINATION)
def fifty_characters(generator: random.Random, row: Row) -> Row:
    return chat(f"{prose(generator, 60, 'hangul')} {_characters(generator, 50)}!", prose(generator, 80, "han"))


@defect(Rule.CONTAMINATION)
def whole_short_item(generator: random.Random, row: Row) -> Row:
    return chat(f" {generator.choice(SHORT_ITEMS).lower()}\n", prose(generator, 200))


@defect(Rule.CONTAMINATION)
def key_of_an_item(generator: random.Random, row: Row) -> Row:
    return {**row, "metadata": {"problem_key": generator.choice(KEYED_ITEMS)[0]}}


@near_miss(Rule.CONTAMINATION)
def few_words_of_an_item(generator: random.Random, row: Row) -> Row:
    words = _words(generator, 12).split()
    while sum(map(len, words)) >= 50:
        words.pop()
    return chat(f"{prose(generator, 120)} 17: {' '.join(words)} (42) {sentence(generator)}", prose(generator, 200))


@near_miss(Rule.CONTAMINATION)
def forty_nine_characters(generator: random.Random, row: Row) -> Row:
    return chat(f"{prose(generator, 60, 'hangul')} {_characters(generator, 49)}!", prose(generator, 80, "hangul"))


@near_miss(Rule.CONTAMINATION)
def short_item_in_a_sentence(generator: random.Random, row: Row) -> Row:
    return chat(f"{generator.choice(SHORT_ITEMS)} {sentence(generator)}", prose(generator, 200))


@near_miss(Rule.CONTAMINATION)
def boilerplate_of_many_items(generator: random.Random, row: Row) -> Row:
    return chat(f"{BOILERPLATE} {prose(generator, 300)}", prose(generator, 300))


@near_miss(Rule.CONTAMINATION)
def another_key_with_the_text_of_an_item(generator: random.Random, row: Row) -> Row:
    key = f"syllo:{generator.randint(1000, 9999)}"
    return chat(
        f"{generator.choice(KEYED_ITEMS)[1]} {sentence(generator)}",
        prose(generator, 200),
        metadata={"problem_key": key},
    )


def _words(generator: random.Random, count: int) -> str:
    words = generator.choice(PROSE_ITEMS).strip(".").split()
    begin = generator.randrange(len(words) - count + 1)
    return " ".join(words[begin : begin + count])


def _characters(generator: random.Random, count: int) -> str:
    text = generator.choice(HAN_ITEMS).strip("。")
    begin = generator.randrange(len(text) - count + 1)
    return text[begin : begin + count]
