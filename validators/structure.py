"""Rules BROKEN_JSON and BROKEN_CODE: answers that look like JSON or Python and do not parse.

Looks like JSON: a `json` fence, or a whole answer that begins with an object's first key (`{"key":`,
`[{"key":`) or is a list that begins with a string (`["...]`). Other brackets are prose, templates, sets,
matrices or another language's literals, and pass: `[laughs]`, `{name}`, `{{name}}`, `[1 2 3]`, `{'a': 1}`.
JSON lines pass, prose after a whole JSON value passes, fences with an ellipsis are sketches and pass.

Looks like Python: a `python` or `py` fence. Shell lines (`!`, `%`) are left out, interpreter sessions
(`>>>`) pass. Code for Python 2, code with placeholders and signatures without a body are found, which
is why the rule only warns. A fence of either kind that is never closed is found as cut off.
"""

import ast
import json
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from validators.quoting import quote
from validators.report import Finding, Rule
from validators.rows import Message

MAX_CODE_CHARS = 64 * 2**10
"""Longer code is not parsed."""

_JSON_START = re.compile(r'\s*(?:\[\s*)?\{\s*"(?:[^"\\\n]|\\.){0,200}"\s*:')
_LIST_START = re.compile(r'\s*\[\s*"')
_FENCE = re.compile(r"([^`]*+)(`{3,}+)[ \t]*+([A-Za-z0-9_+-]*+)([^`]*+)$")
_MARKERS = re.compile(r"(?:[ \t>]|[-*+•][ \t]|[0-9]{1,3}[.)][ \t])*+")
"""What may stand before an opening fence: indentation, quotation, list items; other text if a language is named."""
_SHELL = re.compile(r"^([ \t]*)[!%].*$", re.MULTILINE)
_SESSION = re.compile(r"^[ \t]*(?:>>>|In \[)", re.MULTILINE)
_ELLIPSES = ("...", "…")
_SCANNER = json.JSONDecoder()


class Fence(NamedTuple):
    """A fenced block of an answer; `language` in lower case, "" if none is named."""

    language: str
    body: str
    closed: bool


def fences(text: str) -> Iterator[Fence]:
    """Every fenced block, in order; one that is never closed reaches to the end of the text."""
    if "```" not in text:
        return
    ticks, language, body = "", "", list[str]()
    for line in text.split("\n"):
        match = _FENCE.match(line) if "```" in line else None
        if match and not ticks and _opens(*match.groups()):
            ticks, language, body = match[2], match[3].lower(), []
        elif match and ticks and len(match[2]) >= len(ticks) and _closes(*match.groups()):
            yield Fence(language, "\n".join(body), True)
            ticks = ""
        else:
            body.append(line)
    if ticks:
        yield Fence(language, "\n".join(body), False)


def find_broken_json(messages: Sequence[Message]) -> Finding | None:
    """The first answer that looks like JSON and does not parse."""
    for turn, message in enumerate(messages, 1):
        if message.role != "assistant":
            continue
        text = message.content
        if (_JSON_START.match(text) and not _starts_with_json(text)) or (_is_string_list(text) and not is_json(text)):
            return Finding(Rule.BROKEN_JSON, f"turn {turn} begins like JSON and does not parse: {quote(text)}")
        for fence in fences(text):
            body = fence.body
            if fence.language == "json" and fence.closed and not _is_sketch(body) and not is_json(body):
                return Finding(Rule.BROKEN_JSON, f"turn {turn} has a json fence that does not parse: {quote(body)}")
    return None


def find_broken_code(messages: Sequence[Message]) -> Finding | None:
    """The first answer with Python that does not compile, or with a fence that is never closed."""
    for turn, message in enumerate(messages, 1):
        if message.role != "assistant":
            continue
        for fence in fences(message.content):
            if not fence.closed:
                return Finding(Rule.BROKEN_CODE, f"turn {turn} has a fence that is never closed: {quote(fence.body)}")
            if fence.language in ("python", "py") and (error := syntax_error(fence.body)):
                return Finding(Rule.BROKEN_CODE, f"turn {turn} has Python that does not parse ({error})")
    return None


def is_json(text: str) -> bool:
    """Whether the text is one JSON value, or one a line; nested too deeply to tell counts as one."""
    try:
        try:
            msgspec.json.decode(text)
        except msgspec.DecodeError:
            lines = [line for line in text.split("\n") if line.strip()]
            if len(lines) < 2:
                return False
            for line in lines:
                msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
    except RecursionError:
        return True
    return True


def syntax_error(code: str) -> str | None:
    """Why the code is no Python, or None; code that is too long or too deep to tell passes."""
    if len(code) > MAX_CODE_CHARS or _SESSION.search(code):
        return None
    lines = _SHELL.sub(r"\1pass", code) if "!" in code or "%" in code else code
    for source in dict.fromkeys((code, lines, textwrap.dedent(lines))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(source)
            return None
        except SyntaxError as error:
            reason = f"line {error.lineno}: {error.msg[:100]}"
        except ValueError as error:
            reason = str(error)[:100]
        except (MemoryError, RecursionError):
            return None
    return reason


def _opens(before: str, _: str, language: str, after: str) -> bool:
    return _MARKERS.fullmatch(before) is not None or (language != "" and not after.strip())


def _closes(before: str, _: str, language: str, after: str) -> bool:
    return not (before.strip(" \t>") or language or after.strip())


def _starts_with_json(text: str) -> bool:
    """Whether a whole JSON value stands at the beginning; what follows may be prose."""
    if is_json(text):
        return True
    try:
        _SCANNER.raw_decode(text.lstrip())
    except ValueError:
        return False
    except RecursionError:
        return True
    return True


def _is_string_list(text: str) -> bool:
    return _LIST_START.match(text) is not None and text.rstrip().endswith("]")


def _is_sketch(body: str) -> bool:
    return any(ellipsis in body for ellipsis in _ELLIPSES)
