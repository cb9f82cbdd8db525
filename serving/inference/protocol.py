"""What clients send: OpenAI's API; the answers are in `answers`, our own model management in `management`.

Requests forbid unknown keys and convert nothing, so a parameter that is not supported is refused by
name. Clients send OpenAI's parameters at their defaults too, or as null, which asks for nothing: those
are taken. vLLM's names are taken where OpenAI has none. Types only: knows nothing of HTTP, models or engines.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

MAX_MESSAGES = 4096
MAX_STOP_STRINGS = 4
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_COMPLETION_CHOICES = 128
"""Prompts times answers to each, of one raw completion request."""
MAX_BIASES = 1024
MAX_KEYS = 128
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's, for a raw completion that names no limit."""
Role = Literal["system", "developer", "user", "assistant"]
COLDEST = 1e-3
Temperature = Annotated[float, Field(ge=0, le=2), AfterValidator(lambda value: 0.0 if value < COLDEST else value)]
"""Colder than `COLDEST` is greedy: logits over so small a number leave the range of float32."""
StopString = Annotated[str, Field(min_length=1, max_length=256)]
StopStrings = Annotated[list[StopString], Field(fail_fast=True, json_schema_extra={"maxItems": MAX_STOP_STRINGS})]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIdText = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,9})$")]
IdList = Annotated[list[TokenId], Field(fail_fast=True)]
Penalty = Annotated[float, Field(ge=-2, le=2)]

UNSUPPORTED = "unsupported"
"""The error type of a parameter that is known and supported at its default only."""


class Only:
    """A value that is null or one of a few defaults; every other is refused."""

    def __init__(self, *defaults: object) -> None:
        self._defaults = defaults

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self._defaults]}

    def _check(self, value: Any) -> Any:
        if value is None or any(_is_same(value, default) for default in self._defaults):
            return value
        shown = " or ".join(json.dumps(default) for default in self._defaults)
        wanted = f"is supported as {shown}, its default, only" if shown else "is not supported"
        raise PydanticCustomError(UNSUPPORTED, "this parameter {wanted}; leave it out", {"wanted": wanted})


def _is_same(value: object, default: object) -> bool:
    """JSON's equality: false is not 0."""
    return value == default and isinstance(value, bool) == isinstance(default, bool)


NoValue = Annotated[Any, Only()]
NoList = Annotated[Any, Only([])]
IsFalse = Annotated[Any, Only(False)]
IsTrue = Annotated[Any, Only(True)]
IsOne = Annotated[Any, Only(1)]


def _at_most(count: int, what: str) -> Callable[[Any], Any]:
    """Refuse a longer list or object before each of its parts is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict | list) and len(value) > count:
            raise PydanticCustomError("too_many", "at most {count} {what} are taken", {"count": count, "what": what})
        return value

    return check


def _few_prompts(value: Any) -> Any:
    """Token ids may be as many as they like, prompts may not."""
    is_one = not isinstance(value, list) or not value or isinstance(value[0], int)
    return value if is_one else _at_most(MAX_COMPLETION_CHOICES, "prompts")(value)


Biases = Annotated[
    dict[TokenIdText, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_at_most(MAX_BIASES, "biases")),
    Field(json_schema_extra={"additionalProperties": False, "maxProperties": MAX_BIASES}),
]


class StrictRequest(BaseModel):
    """A body, or a part of one: unknown keys are refused and nothing is converted.

    A list is refused at its first fault: a body of a megabyte could have half a million.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: Any) -> Any:
        return _at_most(MAX_KEYS, "keys of an object")(value)


class TextPart(StrictRequest):
    """A part of a message's content; only text is supported."""

    type: Literal["text"]
    text: str


class ChatMessage(StrictRequest):
    """One turn; `developer` is OpenAI's newer name of `system`."""

    role: Role
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    name: NoValue = None

    # What an answer of ours has beside these, since clients send answers back as they came.
    refusal: NoValue = None
    annotations: NoList = None
    audio: NoValue = None
    function_call: NoValue = None
    tool_calls: NoList = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(StrictRequest):
    """What a stream carries beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: IsFalse = None


class JsonSchema(StrictRequest):
    """A schema that the answer follows, strict or not; without one it is any JSON object."""

    name: str = Field(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_-]+$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictRequest):
    """What the answer is: any text, a JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _agree(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("response_format.json_schema is wanted with the type json_schema, and with no other")
        return self


class GenerationRequest(StrictRequest):
    """What both APIs share; None means the default."""

    model: str = Field(
        min_length=1,
        max_length=256,
        description="champion, a folder's name, checkpoint-N, or 8 or more digits of a weights hash.",
    )
    max_tokens: int | None = Field(default=None, ge=1, description="Tokens of the answer at most.")
    temperature: Temperature | None = Field(default=None, description="0 is greedy; default 1.")
    top_p: float | None = Field(default=None, ge=1e-6, le=1, description="Default 1: off.")
    top_k: int | None = Field(default=None, ge=-1, lt=2**31, description="-1 or 0: off, the default.")
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="Least probability, as a share of the likeliest token's; default 0: off."
    )
    presence_penalty: Penalty | None = Field(
        default=None, description="Off every token that the answer has; default 0."
    )
    frequency_penalty: Penalty | None = Field(default=None, description="The same for each time it has it; default 0.")
    repetition_penalty: float | None = Field(
        default=None, ge=0.01, le=2, description="Divides logits of what prompt or answer have; default 1: off."
    )
    logit_bias: Biases | None = Field(default=None, description="Added to the logits of token ids.")
    seed: int | None = Field(
        default=None, ge=-(2**63), lt=2**63, description="The same seed draws the same noise; choice i has seed + i."
    )
    stop: StopString | StopStrings | None = Field(default=None, description="Up to four texts that end the answer.")
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="Answers to each prompt; default 1.")
    response_format: ResponseFormat | None = Field(default=None, description="Default: any text.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = Field(
        default=None, description="vLLM's: give token_ids and prompt_token_ids beside the text."
    )
    return_tokens_as_token_ids: bool | None = Field(
        default=None, description="vLLM's: log-probabilities name tokens as token_id:N, the end token too."
    )
    user: str | None = Field(default=None, description="Taken and kept nowhere.")

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @model_validator(mode="after")
    def _agree_in_common(self) -> "GenerationRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed together with stream: true")
        if len(self.stop_strings) > MAX_STOP_STRINGS:
            raise ValueError(f"stop holds {len(self.stop_strings)} texts, at most {MAX_STOP_STRINGS} are allowed")
        return self


class ChatCompletionRequest(GenerationRequest):
    """The supported subset of OpenAI's parameters, and some of vLLM's.

    Of the others, those that ask for nothing: what is at its default, and names of the caller that are not kept.
    """

    messages: Annotated[list[ChatMessage], Field(fail_fast=True)] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(
        default=None, ge=1, description="The newer name of max_tokens. Neither: as many as the context leaves."
    )
    logprobs: bool | None = Field(default=None, description="Give each token's log-probability, before any bias.")
    top_logprobs: int | None = Field(
        default=None, ge=0, le=MAX_TOP_LOGPROBS, description="And of so many of the likeliest at its place."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Variables for the chat template, such as enable_thinking."
    )

    safety_identifier: str | None = Field(default=None, description="Taken and kept nowhere.")
    prompt_cache_key: str | None = Field(default=None, description="Taken and without effect.")

    audio: NoValue = None
    function_call: Annotated[Any, Only("none", "auto")] = None
    functions: NoList = None
    metadata: Annotated[Any, Only({})] = None
    modalities: Annotated[Any, Only(["text"])] = None
    parallel_tool_calls: IsTrue = None
    prediction: NoValue = None
    prompt_cache_retention: NoValue = None
    reasoning_effort: NoValue = None
    service_tier: Annotated[Any, Only("auto", "default")] = None
    store: IsFalse = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    tools: NoList = None
    verbosity: Annotated[Any, Only("medium")] = None
    web_search_options: NoValue = None

    @model_validator(mode="after")
    def _agree(self) -> "ChatCompletionRequest":
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise ValueError(f"max_tokens is {both[0]} and max_completion_tokens is {both[1]}: send one of them")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only allowed together with logprobs: true")
        return self

    @property
    def token_limit(self) -> int | None:
        """Tokens of the answer, if the client set a limit under either name."""
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens

    @property
    def logprobs_wanted(self) -> int | None:
        """How many of the likeliest are given beside each token; None where no log-probabilities are."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationRequest):
    """Raw continuations: no template and no profile, and what looks like a control token in a prompt is one."""

    prompt: Annotated[
        str | Annotated[list[str], Field(fail_fast=True)] | IdList | Annotated[list[IdList], Field(fail_fast=True)],
        BeforeValidator(_few_prompts),
    ] = Field(
        description="A text, token ids, or several of either; texts get what the tokenizer adds to one by itself."
    )
    logprobs: int | None = Field(
        default=None, ge=0, le=MAX_TOP_LOGPROBS, description="Likeliest tokens beside each; OpenAI gives 5 at most."
    )
    echo: bool | None = Field(default=None, description="Put the prompt before the answer; not with logprobs.")

    best_of: IsOne = None
    suffix: Annotated[Any, Only("")] = None

    @model_validator(mode="after")
    def _agree(self) -> "CompletionRequest":
        if self.echo and self.logprobs is not None:
            raise ValueError("echo is not supported together with logprobs: prompts are not scored")
        prompts = self.texts or self.id_lists
        if not prompts or not all(prompts):
            raise ValueError("prompt is empty, or holds one that is: there is nothing to continue")
        if (num_choices := len(prompts) * self.num_choices) > MAX_COMPLETION_CHOICES:
            raise ValueError(
                f"prompt and n ask for {num_choices} answers, at most {MAX_COMPLETION_CHOICES} are given at once"
            )
        return self

    @property
    def texts(self) -> list[str]:
        """The prompts, where they are texts."""
        return (
            [self.prompt] if isinstance(self.prompt, str) else [part for part in self.prompt if isinstance(part, str)]
        )

    @property
    def id_lists(self) -> list[list[int]]:
        """The prompts, where they are token ids."""
        ids = [part for part in self.prompt if isinstance(part, int)]
        return [ids] if ids else [part for part in self.prompt if isinstance(part, list)]

    @property
    def token_limit(self) -> int:
        """Tokens of the answer."""
        return self.max_tokens if self.max_tokens is not None else DEFAULT_COMPLETION_TOKENS

    @property
    def logprobs_wanted(self) -> int | None:
        """As in a chat request."""
        return self.logprobs


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail
