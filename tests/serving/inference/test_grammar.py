"""Answers under a schema are JSON that the schema allows, and a schema that cannot be kept is refused before."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gpu_assets.base_model.tiny import build_tokenizer
from serving.inference.engine import Generation, GrammarError, JsonGrammar, Sampling
from serving.inference.grammar import Grammars, check_grammar
from serving.inference.transformers_engine import TransformersEngine
from tests.serving.inference.support import Models, StartEngine, generate, generate_all, run

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENIZER = build_tokenizer()
END = TOKENIZER.token_to_id("<|im_end|>")
V = 512
"""Logits of the tiny model, which has fewer tokens."""


def walk(text: str, schema: dict[str, Any] | None = None) -> list[bool]:
    """Whether an answer may end before each token of a text and after the last, as far as the text is allowed."""
    allowed_tokens = Grammars(TOKENIZER, V, [END]).begin(JsonGrammar(schema))
    may_end: list[bool] = []
    new: list[int] = []
    for token in [*TOKENIZER.encode(text, add_special_tokens=False).ids, None]:
        allowed = allowed_tokens.after(new)
        assert allowed.shape == (V,)
        assert not allowed[TOKENIZER.get_vocab_size() :].any()
        may_end.append(bool(allowed[END]))
        if token is None or not allowed[token]:
            break
        new = [token]
    return may_end


@pytest.mark.parametrize("text", ['{"a":1}', '{"a": [1, "x"], "b": {"c": null}}', '{ "ü\\n": true }'])
def test_an_answer_may_end_exactly_where_it_is_a_whole_object(text: str) -> None:
    *before, after = walk(text)
    assert len(before) == len(TOKENIZER.encode(text, add_special_tokens=False).ids)
    assert not any(before)
    assert after


@pytest.mark.parametrize("text", ["[1]", ' {"a":1}', '{"a":  1}', '{\n"a":1}', '{"a":1,}', "{'a':1}", "five"])
def test_what_is_no_object_in_one_line_is_not_allowed(text: str) -> None:
    assert len(walk(text)) <= len(TOKENIZER.encode(text, add_special_tokens=False).ids)
    assert not any(walk(text))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "thing"}, "Invalid type: thing"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"$ref": "https://example.org/schema"}, "not present"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"enum": []}, "Unsatisfiable"),
        ({"properties": 5}, "must be an object"),
        ({"minimum": float("nan")}, "not JSON"),
        ({"title": "\ud800"}, "not JSON"),
        ({"$ref": "#"}, "make it simpler"),
        ({"minProperties": 2}, "minProperties at # is 2 and required names 0: .*; name 1 in required, or lower"),
        ({"minProperties": 3, "required": ["a", "a"]}, "minProperties at # is 3 and required names 1"),
        ({"minProperties": 2, "patternProperties": {"^a$": {}}, "additionalProperties": False}, "minProperties at #"),
        ({"type": "array", "items": {"anyOf": [{"minProperties": 2}]}}, "minProperties at #/items/anyOf/0"),
        ({"properties": {"a": {"additionalProperties": {"minProperties": 2}}}}, "at #/properties/a/additionalProperti"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"minProperties": 2}}}, r"at #/\$defs/a"),
        ({"properties": {"default": {"minProperties": 2}}}, "at #/properties/default"),
        ({"$ref": "#/a/b", "a": {"b": {"minProperties": 2}}}, "at #/a/b"),
        ({"properties": {"a\n": {"type": "integer"}}}, r"property 'a\\n' at # has a control character"),
        ({"items": {"required": ["\x7f"]}}, r"property '\\x7f' at #/items has a control character"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_with_the_reason(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        check_grammar(JsonGrammar(schema))
    with pytest.raises(GrammarError, match=reason):
        Grammars(TOKENIZER, V, [END]).begin(JsonGrammar(schema)).after([])


def test_a_schema_that_nests_without_end_is_refused_and_not_recursed_into() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(100_000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(GrammarError, match="deeper"):
        check_grammar(JsonGrammar(schema))
    while "items" in schema:  # freed one by one: Python recurses too
        schema = schema["items"]


NAMED = {"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": {"type": "string"}}
ESCAPES = '"\\u0001\\u007f\\n\\u000a\\\\u0061"'


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ('{"a":1,"b":"x","b":"y"}', NAMED),
        ('{"a":1,"b":"x"}', NAMED | {"minProperties": 2}),
        ('{"b":1}', {"minProperties": 1}),
        ('{"a":1}', {"properties": {"a": {}, "b": {}}, "minProperties": 1, "additionalProperties": False}),
        ('{"minProperties":{"a":1}}', {"properties": {"minProperties": {"required": ["a"]}}}),
        (ESCAPES, {"type": "string"}),
        (ESCAPES, {"const": json.loads(ESCAPES)}),
        ('{"minProperties":5}', {"const": {"minProperties": 5}}),
        ('{"minProperties":5}', {"enum": [1, {"minProperties": 5}], "default": {"minProperties": 5}}),
        ('{"minProperties":5}', {"properties": {"minProperties": {"type": "integer"}}, "additionalProperties": False}),
    ],
)
def test_what_can_be_kept_is_not_refused(text: str, schema: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(text), schema)
    assert walk(text, schema)[-1]


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ('{"a":1,"a":"x"}', NAMED),
        ('{"a":1,"\\u0061":"x"}', NAMED),
        ('{"a":1,"a":1}', NAMED | {"minProperties": 2}),
        ('{"\\u0061":1}', {"patternProperties": {"^a": {"type": "null"}}}),
        ('"\\u0061"', {"type": "string", "x-guidance": {"json_allow_general_unicode_escapes": True}}),
    ],
)
def test_a_property_that_the_schema_names_comes_once_and_in_one_spelling(text: str, schema: dict[str, Any]) -> None:
    json.loads(text)
    assert len(walk(text, schema)) <= len(TOKENIZER.encode(text, add_special_tokens=False).ids)


def test_answers_are_what_the_schema_allows_whether_or_not_they_repeat_free_keys() -> None:
    chance = random.Random(7)
    finished = repeated = 0
    for _ in range(400):
        schema = in_some_place(chance, [object_schema(chance) for _ in range(2)])
        answer = drawn_answer(chance, schema) if can_be_kept(schema) else None
        if answer is not None:
            jsonschema.validate(json.loads(answer), schema)
            finished += 1
            repeated += repeats_a_key(answer)
    assert finished > 100
    assert repeated > 10


def can_be_kept(schema: dict[str, Any]) -> bool:
    try:
        check_grammar(JsonGrammar(schema))
    except GrammarError:
        return False
    return True


def object_schema(chance: random.Random) -> dict[str, Any]:
    """Of objects with properties that are named, free or both."""
    values: list[Any] = [{"type": "boolean"}, {"type": "null"}, {"enum": [0, 1]}]
    named = chance.sample(["a", "b", "ab"], chance.randrange(3))
    keywords = {
        "properties": {name: chance.choice(values) for name in named},
        "required": chance.sample([*named, "ba"], chance.randrange(len(named) + 2)),
        "patternProperties": {chance.choice(["^a", "^[ab]$", "b"]): chance.choice([*values, False])},
        "additionalProperties": chance.choice([*values, True, False]),
        "minProperties": chance.randrange(4),
        "maxProperties": chance.randrange(1, 4),
    }
    return {"type": "object"} | {keyword: value for keyword, value in keywords.items() if chance.random() < 0.5}


def in_some_place(chance: random.Random, objects: list[dict[str, Any]]) -> dict[str, Any]:
    first, second = objects
    places: list[dict[str, Any]] = [
        first,
        {"anyOf": objects},
        {"allOf": objects},
        {"type": "array", "items": first, "minItems": 1, "maxItems": 3},
        {"type": "array", "prefixItems": objects, "minItems": 2, "items": False},
        {"type": "object", "properties": {"a": first}, "required": ["a"], "additionalProperties": second},
        {"type": "object", "patternProperties": {"^a": {"$ref": "#/$defs/x"}}, "$defs": {"x": first}},
    ]
    return chance.choice(places)


PIECES = [END, *(TOKENIZER.token_to_id(piece) for piece in '{}[]:,""""""ab0')]
"""The more quotation marks, the shorter the keys, which then repeat more often."""


def drawn_answer(chance: random.Random, schema: dict[str, Any]) -> str | None:
    """An answer of tokens that are drawn from the few pieces, or from whatever is allowed where none of them is.

    None if it does not end by itself.
    """
    allowed_tokens = Grammars(TOKENIZER, V, [END]).begin(JsonGrammar(schema))
    ids: list[int] = []
    while len(ids) < 100:
        allowed = allowed_tokens.after(ids[-1:])
        token = chance.choice([token for token in PIECES if allowed[token]] or allowed.nonzero()[0].tolist())
        if token == END:
            return TOKENIZER.decode(ids)
        ids.append(token)
    return None


def repeats_a_key(answer: str) -> bool:
    repeats = False

    def see(pairs: list[tuple[str, Any]]) -> None:
        nonlocal repeats
        repeats |= len({key for key, _ in pairs}) < len(pairs)

    json.loads(answer, object_pairs_hook=see)
    return repeats


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
        "inner": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/flag"}]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"flag": {"type": "boolean"}},
}
ARRAY = {"type": "array", "items": {"type": "number", "minimum": -5, "maximum": 5}, "maxItems": 3}
CHOICE = {"enum": ["five", 6, None, {"a": [1]}]}
TEXT = {"type": "string", "pattern": "^[a-f]{2,4}$"}
SCHEMAS: list[dict[str, Any] | None] = [PERSON, ARRAY, CHOICE, TEXT, {"const": {"x": 1.5}}, None]


@pytest.fixture(scope="module")
def answers(models: Models, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any] | None, list[int]]]:
    """What an untrained model says to every schema, greedy and by seeds, long and cut off: all in one batch."""
    asked = [
        (schema, Generation(prompt(index), limit, sampling, grammar=JsonGrammar(schema), incremental=bool(index % 2)))
        for index, schema in enumerate(SCHEMAS)
        for limit in (5, 200)
        for sampling in (Sampling(), *(Sampling(temperature=2.0, seed=seed, presence_penalty=0.5) for seed in range(8)))
    ]
    engine = started(models.first)
    try:
        said = run(generate_all(engine, [generation for _, generation in asked]))
    finally:
        engine.stop()
    return [(schema, ids) for (schema, _), ids in zip(asked, said, strict=True)]


def started(folder: Path) -> TransformersEngine:
    from gpu_assets.settings import Profile, Serving
    from serving.inference.loader import inspect_folder
    from serving.inference.transformers_engine import load_engine

    engine = load_engine(inspect_folder(folder, Profile()), Serving(cache_tokens=16_384))
    engine.start()
    return engine


def prompt(index: int) -> list[int]:
    return list(range(10 + index, 30 + index))


def test_whatever_ends_by_itself_parses_and_is_what_its_schema_allows(
    answers: list[tuple[dict[str, Any] | None, list[int]]],
) -> None:
    ended = [(schema, ids) for schema, ids in answers if ids[-1] == END]
    assert len(ended) > len(answers) / 3
    assert {id(schema) for schema, _ in ended} == {id(schema) for schema in SCHEMAS}
    for schema, ids in ended:
        assert ids.count(END) == 1
        value = json.loads(TOKENIZER.decode(ids))
        jsonschema.validate(value, {"type": "object"} if schema is None else schema)


def test_whatever_is_cut_off_is_the_beginning_of_such_an_answer(
    answers: list[tuple[dict[str, Any] | None, list[int]]],
) -> None:
    cut = [(schema, ids) for schema, ids in answers if ids[-1] != END]
    assert cut
    for schema, ids in cut:
        allowed_tokens = Grammars(TOKENIZER, V, [END]).begin(JsonGrammar(schema))
        new: list[int] = []
        for token in ids:
            assert allowed_tokens.after(new)[token]
            new = [token]


def test_a_schema_that_cannot_be_kept_never_reaches_the_engine(models: Models, start_engine: StartEngine) -> None:
    engine = start_engine(models.first)
    with pytest.raises(GrammarError, match="uniqueItems"):
        run(generate_all(engine, [Generation(prompt(0), 8, grammar=JsonGrammar({"uniqueItems": True}))]))
    assert engine.stats().running == engine.stats().waiting == 0
    assert engine.alive


def test_a_schema_that_is_too_much_midway_fails_its_own_request(models: Models, start_engine: StartEngine) -> None:
    wide = JsonGrammar({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5000)}})
    engine = start_engine(models.first)

    async def side_by_side() -> None:
        other, failed = await asyncio.gather(
            generate(engine, Generation(prompt(1), 30)),
            generate(engine, Generation(prompt(0), 30, grammar=wide)),
            return_exceptions=True,
        )
        assert isinstance(failed, GrammarError) and "make it simpler" in str(failed)
        assert isinstance(other, list) and len(other) == 30

    run(side_by_side())
    assert engine.alive
