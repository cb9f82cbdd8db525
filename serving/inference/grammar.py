"""Answers that are JSON: which tokens a schema allows next, told by llguidance's automaton.

White space is one space at most, wherever JSON allows white space: a model that is unsure could write it for ever,
and one that has learned either of the usual ways to write JSON in a line writes on as it has learned. What the
automaton does not know or does not keep is refused, never left out. It lets an answer repeat a key that the schema does
not name: parsers take the last, which is as the schema wants it. Knows nothing of torch or of engines.
"""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from serving.inference.engine import GrammarError, JsonGrammar

if TYPE_CHECKING:  # It is in the type stubs only.
    from llguidance._lib import JsonCompileOptions

ANY_OBJECT = {"type": "object"}
MAX_SCHEMA_DEPTH = 64
"""Of objects and arrays in each other; compiling recurses."""
BYTES = 256
_OPTIONS: "JsonCompileOptions" = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": True,
    "whitespace_pattern": " ",
    "coerce_one_of": False,
    "lenient": False,
    "json_allowed_escapes": 'nrbtf"\\u',
    "json_allow_general_unicode_escapes": False,
}
"""All of them, so that no schema sets its own by an `x-guidance` key."""
DATA = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are no schemas."""
BY_NAME = frozenset({"$defs", "definitions", "patternProperties", "properties"})
"""Keywords whose values are schemas by names, which may be keywords too."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPES = LLMatcher.grammar_from_lark(r"start: /([^\\]|\\[^u]|\\u00([01][0-9a-fA-F]|7[fF]))*/")
"""Text that escapes no other characters by their numbers than control characters: a schema's automaton takes `\\u0061`
for another key than `a`.
"""


def check_grammar(grammar: JsonGrammar) -> None:
    """See that answers can be held to a grammar. Blocks for as long as its schema is complex.

    Raises:
        GrammarError: if they cannot.
    """
    AllowedTokens(_of_bytes(), _compile(grammar), BYTES).after([])


@cache
def _of_bytes() -> LLTokenizer:
    """A vocabulary of bytes, which every answer can be written in."""
    return LLTokenizer("byte")


class AllowedTokens:
    """Where one answer is in its grammar. Not for several threads at once."""

    def __init__(self, tokenizer: LLTokenizer, compiled: str, vocabulary: int) -> None:
        self._matchers = [LLMatcher(tokenizer, each, log_level=0) for each in (compiled, _ESCAPES)]
        self._vocabulary = vocabulary
        self._raise_error()

    def after(self, new_ids: Sequence[int]) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Whether each token of the vocabulary may follow, after these tokens since the last call.

        Tokens that end an answer may where the grammar accepts it as it is.

        Raises:
            GrammarError: if the automaton gives up; it has limits that only odd schemas reach.
        """
        for matcher in self._matchers:
            matcher.consume_tokens(list(new_ids))
        of_schema, of_escapes = (np.frombuffer(each.compute_bitmask(), dtype=np.uint8) for each in self._matchers)
        self._raise_error()
        return np.unpackbits(of_schema & of_escapes, count=self._vocabulary, bitorder="little").view(np.bool_)

    def _raise_error(self) -> None:
        failed = next((matcher for matcher in self._matchers if matcher.is_error()), None)
        if failed is not None:
            reason = failed.get_error().partition("\n")[0]
            raise GrammarError(f"answers cannot be held to this schema: {reason}; make it simpler")


class Grammars:
    """Makes `AllowedTokens` for one model; its vocabulary is prepared at the first, which takes a second for a big one.

    Args:
        vocabulary: how many logits the model has, which may be more than its tokenizer has tokens.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end_ids: Sequence[int]) -> None:
        self._source = tokenizer
        self._vocabulary = vocabulary
        self._end_ids = list(end_ids)
        self._preparing = threading.Lock()
        self._prepared: LLTokenizer | None = None

    def begin(self, grammar: JsonGrammar) -> AllowedTokens:
        """An answer's state at its beginning. Blocks; for any thread.

        Raises:
            GrammarError: as `check_grammar`.
        """
        compiled = _compile(grammar)
        with self._preparing:
            if self._prepared is None:
                text = self._source.to_str()
                self._prepared = LLTokenizer(text, n_vocab=self._vocabulary, eos_token=self._end_ids)
        return AllowedTokens(self._prepared, compiled, self._vocabulary)


def _compile(grammar: JsonGrammar) -> str:
    schema = ANY_OBJECT if grammar.schema is None else dict(grammar.schema)
    if _is_deeper(schema, MAX_SCHEMA_DEPTH):
        raise GrammarError(f"the schema nests deeper than {MAX_SCHEMA_DEPTH} levels; define parts of it under $defs")
    try:
        compiled = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_OPTIONS)
    except ValueError as error:
        raise GrammarError(f"the schema is not JSON: {error}") from None
    refused, problems = LLMatcher.validate_grammar_with_warnings(compiled)
    if refused:
        raise GrammarError(
            f"answers cannot be held to this schema: {'; '.join(problems)}; change or leave out that part"
        )
    unkept = next(_unkept(schema), None)
    if unkept is not None:
        raise GrammarError(f"answers cannot be held to this schema: {unkept}")
    return compiled


def _unkept(part: object, place: str = "#") -> Iterator[str]:
    """What the automaton takes and does not keep. Looks at all that is no data: a `$ref` may point at any of it."""
    if isinstance(part, list):
        for index, inner in enumerate(part):
            yield from _unkept(inner, f"{place}/{index}")
    if not isinstance(part, dict):
        return
    least, required, properties = (part.get(keyword) for keyword in ("minProperties", "required", "properties"))
    named = {str(name) for name in required} if isinstance(required, list) else set()
    if isinstance(least, int) and least > len(named) + 1:
        yield (
            f"minProperties at {place} is {least} and required names {len(named)}: the rest could be one key, repeated;"
            f" name {least - 1} in required, or lower minProperties to {len(named) + 1}"
        )
    for name in filter(_CONTROL.search, named.union(properties if isinstance(properties, dict) else ())):
        yield f"the property {name!r} at {place} has a control character, which can be spelt in two ways; rename it"
    for keyword, inner in part.items():
        if keyword in BY_NAME and isinstance(inner, dict):
            for name, named_part in inner.items():
                yield from _unkept(named_part, f"{place}/{keyword}/{name}")
        elif keyword not in DATA:
            yield from _unkept(inner, f"{place}/{keyword}")


def _is_deeper(value: object, levels: int) -> bool:
    """Whether lists and objects nest further than that; looks no deeper."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in inner)
