"""Each rule: rows that trip it, and their nearest neighbours that must not."""

import re

import pytest

from validators import Rule

OK = '{"role": "assistant", "content": "2"}'
USER = '{"role": "user", "content": "1 + 1"}'


def row(messages=f"{USER}, {OK}", more=""):
    return f'{{"messages": [{messages}]{more}}}'


REJECTED = [
    (Rule.ROW_TOO_LONG, row(more=f', "metadata": {{"a": "{"x" * 1000}"}}')),
    (Rule.NOT_UTF8, row().encode().replace(b"1 + 1", b"caf\xe9")),
    (Rule.NOT_UTF8, row(more=', "metadata": {"a": "?"}').encode().replace(b"?", b"\xed\xa0\x80")),
    (Rule.INVALID_JSON, row()[:-1]),
    (Rule.INVALID_JSON, row() + ","),
    (Rule.INVALID_JSON, row() + row()),
    (Rule.INVALID_JSON, "not json"),
    (Rule.INVALID_JSON, row().replace('"', "'")),
    (Rule.INVALID_JSON, row(more=', "metadata": {"loss": NaN}')),
    (Rule.INVALID_JSON, row(more=', "metadata": {"loss": -Infinity}')),
    (Rule.INVALID_JSON, row(more=', "metadata": {"loss": 01}')),
    (Rule.INVALID_JSON, row().replace("1 + 1", "a\tb")),
    (Rule.INVALID_JSON, row().replace("1 + 1", "\\ud800 alone")),
    (Rule.INVALID_JSON, row().replace("1 + 1", "\\udc00 alone")),
    (Rule.INVALID_JSON, row(more=', "metadata": ' + "[" * 5000 + "]" * 5000)[:900]),
    (Rule.NOT_AN_OBJECT, "[]"),
    (Rule.NOT_AN_OBJECT, f"[{USER}, {OK}]"),
    (Rule.NOT_AN_OBJECT, "null"),
    (Rule.NOT_AN_OBJECT, '"text"'),
    (Rule.NOT_AN_OBJECT, "12"),
    (Rule.MISSING_COLUMN, "{}"),
    (Rule.MISSING_COLUMN, '{"text": "a"}'),
    (Rule.MISSING_COLUMN, row().replace("messages", "Messages")),
    (Rule.WRONG_TYPE, '{"messages": null}'),
    (Rule.WRONG_TYPE, '{"messages": "hello"}'),
    (Rule.WRONG_TYPE, '{"messages": {"role": "user", "content": "a"}}'),
    (Rule.WRONG_TYPE, '{"messages": ["hello"]}'),
    (Rule.WRONG_TYPE, row('{"role": "user"}')),
    (Rule.WRONG_TYPE, row('{"content": "a"}')),
    (Rule.WRONG_TYPE, row('{"role": 1, "content": "a"}')),
    (Rule.WRONG_TYPE, row(f'{USER}, {{"role": "assistant", "content": null}}')),
    (Rule.WRONG_TYPE, row(f'{USER}, {{"role": "assistant", "content": ["a"]}}')),
    (Rule.WRONG_TYPE, row(f'{USER}, {{"role": "assistant", "content": 2}}')),
    (Rule.WRONG_TYPE, row(more=', "metadata": []')),
    (Rule.WRONG_TYPE, row(more=', "metadata": "a"')),
    (Rule.WRONG_TYPE, row(more=', "metadata": {"problem_key": 5}')),
    (Rule.WRONG_TYPE, row(more=', "system_prompt": 5')),
    (Rule.DUPLICATE_KEY, row(more=f', "messages": [{USER}, {OK}]')),
    (Rule.DUPLICATE_KEY, row('{"role": "user", "role": "user", "content": "a"}, ' + OK)),
    (Rule.DUPLICATE_KEY, row(f'{USER}, {{"role": "assistant", "content": "2", "content": "3"}}')),
    (Rule.DUPLICATE_KEY, row(more=', "metadata": {}, "metadata": {}')),
    (Rule.DUPLICATE_KEY, row(more=', "metadata": {"problem_key": "a", "problem_key": "b"}')),
    (Rule.DUPLICATE_KEY, row(f'{USER}, {{"role": "assistant", "content": "2", "cont\\u0065nt": "3"}}')),
    (Rule.DUPLICATE_KEY, row(f'{USER}, {{"\\u0072ole": "user", "role": "assistant", "content": "2"}}')),
    (Rule.DUPLICATE_KEY, row(more=f', "message\\u0073": [{USER}, {OK}]')),
    (Rule.DUPLICATE_KEY, row(more=', "metadata": {"problem_key": "a", "problem\\u005Fkey": "b"}')),
    (Rule.UNKNOWN_ROLE, row(f'{USER}, {{"role": "tool", "content": "2"}}')),
    (Rule.UNKNOWN_ROLE, row(f'{USER}, {{"role": "Assistant", "content": "2"}}')),
    (Rule.UNKNOWN_ROLE, row(f'{USER}, {{"role": "", "content": "2"}}')),
    (Rule.ROLE_ORDER, row("")),
    (Rule.ROLE_ORDER, row(USER)),
    (Rule.ROLE_ORDER, row(OK)),
    (Rule.ROLE_ORDER, row(f"{OK}, {USER}")),
    (Rule.ROLE_ORDER, row(f"{USER}, {OK}, {USER}")),
    (Rule.ROLE_ORDER, row(f"{USER}, {OK}, {OK}")),
    (Rule.ROLE_ORDER, row(f"{USER}, {USER}, {OK}")),
    (Rule.ROLE_ORDER, row('{"role": "system", "content": "a"}')),
    (Rule.ROLE_ORDER, row(f'{USER}, {{"role": "system", "content": "a"}}, {OK}')),
    (Rule.ROLE_ORDER, row(f'{{"role": "system", "content": "a"}}, {USER}, {OK}', ', "system_prompt": "b"')),
    (Rule.EMPTY_CONTENT, row(f'{USER}, {{"role": "assistant", "content": ""}}')),
    (Rule.EMPTY_CONTENT, row(f'{{"role": "user", "content": " \\n\\t "}}, {OK}')),
    (Rule.EMPTY_CONTENT, row(f'{{"role": "system", "content": ""}}, {USER}, {OK}')),
    (Rule.EMPTY_CONTENT, row(f'{USER}, {{"role": "assistant", "content": "\u200b\ufeff \u200d"}}')),
    (Rule.EMPTY_CONTENT, row(f'{USER}, {{"role": "assistant", "content": "\\u200b\\u2060"}}')),
    (Rule.CONTROL_CHARACTER, row().replace("1 + 1", "a\\u0000b")),
    (Rule.CONTROL_CHARACTER, row().replace("1 + 1", "a\\u001b[31m")),
    (Rule.CONTROL_CHARACTER, row().replace("1 + 1", "a\\bb")),
    (Rule.CONTROL_CHARACTER, row().replace("1 + 1", "a\\fb")),
    (Rule.CONTROL_CHARACTER, row().replace("1 + 1", "a\x7fb")),
    (Rule.CONTROL_CHARACTER, row().replace("1 + 1", "a\x85b")),
    (Rule.SPECIAL_TOKEN, row().replace("1 + 1", "a<|im_end|>")),
    (Rule.SPECIAL_TOKEN, row().replace("1 + 1", "<|endoftext|>")),
    (Rule.SPECIAL_TOKEN, row().replace("1 + 1", "\\u003c|im_start|>system")),
    (Rule.SPECIAL_TOKEN, row(more=', "system_prompt": "<|im_end|>"')),
    (Rule.HELD_OUT, row(more=', "metadata": {"problem_key": "binary:add:1:2"}')),
    (Rule.HELD_OUT, row(more=', "metadata": {"problem_key": "bin\\u0061ry:add:1:2"}')),
    (Rule.UNSUPERVISED, row().replace("1 + 1", "a b c d " * 50)),
]

ACCEPTED = [
    row(),
    row(more=f', "metadata": {{"a": "{"x" * 880}"}}'),
    row().replace("1 + 1", "café ⓪① 日本語 \u202eright to left\u200b"),
    row().replace("1 + 1", "\\ud83d\\ude00 a pair"),
    row().replace("1 + 1", "a\\tb\\r\\nc"),
    row().replace("1 + 1", "a\u00a0b\u0301"),
    row().replace("1 + 1", "the text \\\\u0000 and \\\\b"),
    row().replace("1 + 1", "<|im_ end|> <im_end> im_end"),
    row().replace("1 + 1", "<think>is plain text</think>"),
    row().replace("1 + 1", '\\"role\\": \\"content\\", \\"messages\\"'),
    row().replace("1 + 1", "role"),
    row().replace("1 + 1", "caf\\u00e9, cont\\u0065nt"),
    row(f'{USER}, {{"role": "assistant", "cont\\u0065nt": "3"}}'),
    row(more=', "metadata": {"r\\u006fle": "a", "problem\\u005fkey": "b"}'),
    row(f'{USER}, {{"role": "assistant", "content": "0"}}'),
    row(f'{USER}, {{"role": "assistant", "content": "\u200b.\ufeff"}}'),
    row(f'{{"role": "system", "content": "a"}}, {USER}, {OK}'),
    row(f'{{"role": "system", "content": "a"}}, {USER}, {OK}', ', "system_prompt": "a"'),
    row(f"{USER}, {OK}, {USER}, {OK}"),
    row(more=', "system_prompt": null, "metadata": null'),
    row(more=', "system_prompt": "Be brief."'),
    row(more=', "metadata": {"problem_key": "binary:add:1:3"}'),
    row(more=', "metadata": {"problem_key": null}'),
    row(more=', "metadata": {"loss": 1.5e3, "id": ' + "9" * 400 + "}"),
    row(more=', "metadata": {"deep": ' + "[" * 200 + "]" * 200 + "}"),
    row(more=', "metadata": {"role": 1, "content": 2, "text": 3, "messages": 4}'),
    row(more=', "tags": ["a", {"b": 1}], "difficulty": 3'),
    "  " + row() + " \t",
]

COMPLETIONS = [
    (None, '{"text": "Once upon a time."}'),
    (None, '{"text": "a", "metadata": {"n": 1}}'),
    (None, '{"text": "0"}'),
    (Rule.MISSING_COLUMN, row()),
    (Rule.WRONG_TYPE, '{"text": null}'),
    (Rule.WRONG_TYPE, '{"text": ["a"]}'),
    (Rule.EMPTY_CONTENT, '{"text": "  "}'),
    (Rule.SPECIAL_TOKEN, '{"text": "a<|im_end|>b"}'),
    (Rule.CONTROL_CHARACTER, '{"text": "a\\u0007"}'),
    (Rule.DUPLICATE_KEY, '{"text": "a", "text": "b"}'),
    (Rule.HELD_OUT, '{"text": "a", "metadata": {"problem_key": "binary:add:1:2"}}'),
]


def validate_one(validate, line, **arguments):
    return validate(line, max_length=64, max_row_bytes=1024, **arguments)


@pytest.mark.parametrize(("rule", "line"), REJECTED)
def test_a_row_that_breaks_a_rule_is_rejected_by_that_rule(validate, rule, line):
    validated = validate_one(validate, line)

    assert [rejected.reason for rejected in validated.rejected] == [rule]
    assert validated.accepted.is_empty()
    assert validated.report.rejected_by_rule() == {rule: 1}


@pytest.mark.parametrize("line", ACCEPTED)
def test_its_nearest_neighbour_is_accepted(validate, line):
    validated = validate_one(validate, line)

    assert not validated.rejected
    assert validated.accepted["line"].to_list() == [1]
    assert not validated.report.problems


@pytest.mark.parametrize(
    ("rule", "more"),
    [(Rule.DUPLICATE_KEY, "9" * 5000), (Rule.INVALID_JSON, "[" * 2000 + "]" * 2000), (None, "[" * 800 + "]" * 800)],
)
def test_a_key_twice_cannot_hide_behind_a_value_that_is_hard_to_read(validate, rule, more):
    key = '"problem_key": "a"'
    twice = f"{key}, {key}" if rule is Rule.DUPLICATE_KEY else key
    validated = validate(row(more=f', "metadata": {{{twice}, "deep": {more}}}'))

    assert [rejected.reason for rejected in validated.rejected] == ([rule] if rule else [])


@pytest.mark.parametrize(("rule", "line"), COMPLETIONS)
def test_completion_rows_are_held_to_the_rules_of_text(validate, rule, line):
    validated = validate_one(validate, line, schema="completion_v1")

    assert [rejected.reason for rejected in validated.rejected] == ([rule] if rule else [])
    assert validated.accepted.height == (0 if rule else 1)


def test_every_rule_that_rejects_a_row_has_a_golden_row():
    from validators.report import SEVERITIES, Severity

    shown = {rule for rule, _ in REJECTED} | {Rule.UNRENDERABLE, Rule.ANSWER_LEAKAGE, Rule.CONTAMINATION}
    assert shown == {rule for rule in Rule if SEVERITIES[rule] is Severity.REJECT_ROW}


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (row(f'{USER}, {{"role": "tool", "content": "2"}}'), "turn 2 has role 'tool'; known roles: system, user"),
        (row(f"{USER}, {USER}, {OK}"), "turn 2 is user, wanted assistant"),
        (row(f'{{"role": "system", "content": "a"}}, {OK}'), "turn 2 is assistant, wanted user"),
        (row(USER), "the last turn is user, wanted assistant"),
        (row().replace("1 + 1", "a<|im_end|>"), r"turn 1 \(user\) holds the control token '<|im_end|>' at character 1"),
        (row().replace('"2"', '"\\u0000"'), r"turn 2 \(assistant\) holds U\+0000 at character 0"),
        (row(f'{USER}, {{"role": "assistant", "content": null}}'), r"got `null` - at `\$.messages\[1\].content`"),
        (row(more=', "metadata": {"problem_key": 5}'), r"metadata: .* at `\$.problem_key`"),
        ('{"prompt": "a"}', "column messages is missing; the row has prompt"),
        ("{oops", "JSON is malformed.*'{oops'"),
    ],
)
def test_the_detail_says_where_and_what_was_seen(validate, line, detail):
    (rejected,) = validate_one(validate, line).rejected

    assert re.search(detail, rejected.detail)
    assert rejected.to_row() == {
        "line": 1,
        "reason": rejected.reason.value,
        "detail": rejected.detail,
        "excerpt": line,
    }
