"""Chat templates: Jinja files that turn a conversation into text, as transformers renders them.

But for one thing: a template has no clock here. The date in a prompt would differ between training and serving.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.defaults
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gpu_assets.errors import RenderingError

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
THINKING_MARKS = ("<think>", "</think>", "reasoning_content", "enable_thinking")

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
CHATML_END = CHATML_TOKENS[-1]
RESERVED_VARIABLES = frozenset(
    {"messages", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token", "tools", "documents"}
    | {"raise_exception", "strftime_now", *jinja2.defaults.DEFAULT_NAMESPACE}
)
"""Names in a template that are not a request's to set: what the renderer sets, and the template language's own."""

_REFUSALS = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""The template's own, and what it runs into with a variable of another type than it expects."""

_FETCH_AGAIN = "restore it, or fetch the model again"


def read_template(folder: Path) -> str:
    """The chat template of a model folder: `chat_template.jinja`, else `tokenizer_config.json`'s.

    Raises:
        RenderingError: if the folder has neither, or the file cannot be read.
    """
    path = folder / TEMPLATE_FILE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RenderingError(f"{path} cannot be loaded: {error}; wanted a Jinja template in UTF-8") from None
    template = read_tokenizer_config(folder).get("chat_template")
    if isinstance(template, str):
        return template
    raise RenderingError(
        f"{folder} has no chat template: neither {TEMPLATE_FILE} nor a chat_template in "
        f"{TOKENIZER_CONFIG_FILE}. Use an instruction-tuned model, or put a template into the folder."
    )


def is_thinking(template: str) -> bool:
    """Whether a template knows of think blocks."""
    return any(mark in template for mark in THINKING_MARKS)


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` as a dict; empty if the folder has none.

    Raises:
        RenderingError: if it cannot be read, or is no JSON object.
    """
    path = folder / TOKENIZER_CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RenderingError(f"{path} cannot be loaded: {error}; {_FETCH_AGAIN}") from None
    if not isinstance(config, dict):
        raise RenderingError(f"{path} is a JSON {type(config).__name__}, wanted an object; {_FETCH_AGAIN}")
    return config


def render(template: str, messages: Sequence[Mapping[str, str]], /, **variables: Any) -> str:
    """The text of a conversation.

    Raises:
        RenderingError: if the template does not parse, or refuses the conversation or a variable.
    """
    try:
        return _compile(template).render({**variables, "messages": list(messages)})
    except _REFUSALS as error:
        roles = [message.get("role") for message in messages]
        if "strftime_now" in str(error):
            raise RenderingError(
                "the chat template asks for today's date, which would make prompts differ from training; write a date "
                f"into the model's {TEMPLATE_FILE}"
            ) from error
        raise RenderingError(f"the chat template cannot render roles {roles}: {error}") from error


class _GenerationBlocks(Extension):
    """`{% generation %}` around what a model says, as transformers has it; here it is no more than what is inside."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlocks]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(template)


def _to_json(value: Any, indent: int | None = None) -> str:
    """Plain JSON: Jinja's own filter escapes HTML characters."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
