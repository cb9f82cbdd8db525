"""JSON and Python that do not parse, and brackets that are neither."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validators.report import Rule
from validators.rows import Message
from validators.structure import fences, find_broken_code, find_broken_json


def answer(text: str) -> list[Message]:
    return [Message("user", "```json\n{oops\n```\n```python\n(\n```"), Message("assistant", text)]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1,}',
        '{"a": 1, "b": [1, 2',
        '{"a": "cut of',
        '{"a": True}',
        '[{"a": 1}, {"b": }]',
        '["a", "b",]',
        "Here:\n```json\n{'a': 1}\n```",
        "```JSON\n{a: 1}\n```\nDone.",
        "```json\n\n```",
    ],
)
def test_json_that_does_not_parse_is_found(text):
    assert find_broken_json(answer(text)).rule is Rule.BROKEN_JSON


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        '{"a": 1} is the object.',
        '{"a": 1}\n{"a": 2}',
        ' [{"a": [1, 2]}]\n',
        '["a", "b"]',
        '["So"] he said',
        "[]",
        "{}",
        "[laughs]",
        "[laughs] and [cries]",
        "{name}",
        "Dear {name}, {greeting}",
        "{{name}}",
        "{1, 2, 3}",
        "{'a': 1}",
        "[1 2 3]",
        "[1] A book. [2]",
        '{"a", "b"}',
        "{x | x > 0}",
        "4",
        "```json\n[1, 2]\n```",
        '```json\n{"a": 1}\n{"a": 2}\n```',
        '```json\n{"a": 1, ...}\n```',
        "```js\n{a: 1}\n```",
        "the words ```json and then``` more",
        '[{"a": ' + "[" * 5000 + "]" * 5000 + "}]",
    ],
)
def test_what_parses_or_is_no_json_passes(text):
    assert find_broken_json(answer(text)) is None


@pytest.mark.parametrize(
    "code",
    ["print 'two'", "def f(:\n    pass", "def f():", "x = (1, 2", "if x:\nreturn", "a = <your value>", "x = '\x00'"],
)
def test_python_that_does_not_parse_is_found(code):
    for language in ("python", "py", "Python"):
        finding = find_broken_code(answer(f"So:\n```{language}\n{code}\n```\nDone."))
        assert finding.rule is Rule.BROKEN_CODE
        assert finding.detail.startswith("turn 2 has Python that does not parse (")


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint('three')\n```",
        "- item\n  ```python\n  x = 1\n  if x:\n      y = 2\n  ```",
        "```python\n    x = 1\n```",
        "```python\n>>> print 'two'\n```",
        "```python\n!pip install a\n%matplotlib inline\nimport a\n```",
        "```python\nif x:\n    !ls\n```",
        "```python\nreturn await x\n```",
        "```python\nre.compile('\\d')\n```",
        "```python\n...\n```",
        "```python2\nprint 'two'\n```",
        "```\nprint 'two'\n```",
        "```python-repl\nprint 'two'\n```",
        "print 'two'",
        "use ```python``` fences",
        "````markdown\n```python\nprint 'two'\n```\n````",
        "```python\n" + "(" * 70_000 + "\n```",
    ],
)
def test_python_that_parses_or_is_not_judged_passes(text):
    assert find_broken_code(answer(text)) is None


@pytest.mark.parametrize("before", ["1. ", "- ", "  12) ", "> * ", "   ", "Use this: ", "*So:* "])
def test_a_fence_may_stand_behind_a_list_item_or_a_sentence(before):
    for code, rule in (("x = 1", None), ("x = (", Rule.BROKEN_CODE)):
        finding = find_broken_code(answer(f"Do it:\n{before}```python\n   {code}\n   ```\n2. Run it."))

        assert (finding and finding.rule) is rule


def test_marks_in_a_sentence_are_no_fence():
    assert not list(fences("End it with ```\nor with ``` as you like.\n"))
    assert list(fences("```\nprint(1) # ```\n```")) == [("", "print(1) # ```", True)]


def test_a_fence_that_is_never_closed_is_found():
    assert "never closed" in find_broken_code(answer("Look:\n```\nx = 1")).detail
    assert find_broken_code(answer("Look:\n```\nx = 1\n```")) is None


def test_fences_close_with_as_many_marks_and_no_language():
    blocks = list(fences("a\n```py\n```js\n1\n```\nb\n~~~\n````\n```\n````\n```"))

    assert [tuple(block) for block in blocks] == [("py", "```js\n1", True), ("", "```", True), ("", "", False)]


DEEP = ["-" * 60_000 + "1", "1+" * 30_000 + "1", "a" + ".b" * 30_000, "[" * 150 + "]" * 150, "f(" * 90 + ")" * 90,
        "not " * 15_000 + "x", "a if b else " * 5000 + "c", "x=" * 30_000 + "1", "lambda:" * 8000 + "1"]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("code", DEEP)
def test_deep_code_neither_raises_nor_crashes(code):
    find_broken_code(answer(f"```python\n{code}\n```"))


@settings(max_examples=300, deadline=None)
@given(
    st.text()
    | st.lists(
        st.sampled_from(["```", "```python\n", "```json\n", "\n", "{", '"a":', "}", "[", "]", "1", " ", "(", "\x00"])
    ).map("".join)
)
def test_no_text_makes_a_rule_raise(text):
    find_broken_json(answer(text))
    find_broken_code(answer(text))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    ["a", "`", " ", "```\n", "```a", '{"a":', "[", "[{", '{"', '\\"', "```python\nx\n```\n", "```json\n1\n```\n"],
)
def test_a_long_text_takes_linear_time(unit):
    text = unit * (2**20 // len(unit))
    for hostile in (text, f"```{text}`", f'{{"{text}', f'["{text}"]'):
        find_broken_json(answer(hostile))
        find_broken_code(answer(hostile))
