"""What clients send and what they get: OpenAI's API; our own model management is in `management`.

Requests forbid unknown keys and convert nothing, so a parameter that is not supported is refused by
name. Clients send OpenAI's parameters at their defaults too, or as null, which asks for nothing: those
are taken. Types only: knows nothing of HTTP, models or engines.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_STOP_STRINGS = 4
Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]
COLDEST = 1e-3
Temperature = Annotated[float, AfterValidator(lambda value: 0.0 if value < COLDEST else value)]
"""Colder than `COLDEST` is greedy: logits over so small a number leave the range of float32."""
StopString = Annotated[str, Field(min_length=1, max_length=256)]

UNSUPPORTED = "unsupported"
"""The error type of a parameter that is known and supported at its default only."""


def _only(*defaults: object) -> Callable[[Any], Any]:
    """Refuse every value but null and these."""
    shown = " or ".join(json.dumps(default) for default in defaults)
    wanted = f"is supported as {shown}, its default, only" if defaults else "is not supported"

    def check(value: Any) -> Any:
        if value is None or any(_is_same(value, default) for default in defaults):
            return value
        raise PydanticCustomError(UNSUPPORTED, "this parameter {wanted}; leave it out", {"wanted": wanted})

    return check


def _is_same(value: object, default: object) -> bool:
    """JSON's equality: false is not 0."""
    return value == default and isinstance(value, bool) == isinstance(default, bool)


NoValue = Annotated[Any, AfterValidator(_only())]
NoList = Annotated[Any, AfterValidator(_only([]))]
IsFalse = Annotated[Any, AfterValidator(_only(False))]
IsZero = Annotated[Any, AfterValidator(_only(0))]


class StrictRequest(BaseModel):
    """A body, or a part of one: unknown keys are refused and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(StrictRequest):
    """A part of a message's content; only text is supported."""

    type: Literal["text"]
    text: str


class ChatMessage(StrictRequest):
    """One turn."""

    role: Role
    content: str | list[TextPart]
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


class ChatCompletionRequest(StrictRequest):
    """The supported subset of OpenAI's parameters, and `top_k`; None means the default.

    Of the others, those that ask for nothing: what is at its default, and names of the caller that are not kept.
    """

    model: str = Field(min_length=1, description="champion, a folder's name, checkpoint-N, or a weights hash.")
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, description="None: as many as the context leaves.")
    max_completion_tokens: int | None = Field(default=None, ge=1, description="The newer name of max_tokens.")
    temperature: Temperature | None = Field(default=None, ge=0, le=2, description="0 is greedy; default 1.")
    top_p: float | None = Field(default=None, ge=1e-6, le=1, description="Default 1: off.")
    top_k: int | None = Field(default=None, ge=-1, lt=2**31, description="-1 or 0: off, the default.")
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="The same seed draws the same noise.")
    stop: StopString | list[StopString] | None = Field(
        default=None, description="Up to four texts that end the answer."
    )
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    user: str | None = Field(default=None, description="Taken and kept nowhere.")
    safety_identifier: str | None = Field(default=None, description="Taken and kept nowhere.")
    prompt_cache_key: str | None = Field(default=None, description="Taken and without effect.")

    audio: NoValue = None
    frequency_penalty: IsZero = None
    function_call: Annotated[Any, AfterValidator(_only("none", "auto"))] = None
    functions: NoList = None
    logit_bias: Annotated[Any, AfterValidator(_only({}))] = None
    logprobs: IsFalse = None
    metadata: Annotated[Any, AfterValidator(_only({}))] = None
    modalities: Annotated[Any, AfterValidator(_only(["text"]))] = None
    parallel_tool_calls: Annotated[Any, AfterValidator(_only(True))] = None
    prediction: NoValue = None
    presence_penalty: IsZero = None
    prompt_cache_retention: NoValue = None
    reasoning_effort: NoValue = None
    response_format: Annotated[Any, AfterValidator(_only({"type": "text"}))] = None
    service_tier: Annotated[Any, AfterValidator(_only("auto", "default"))] = None
    store: IsFalse = None
    tool_choice: Annotated[Any, AfterValidator(_only("none", "auto"))] = None
    tools: NoList = None
    top_logprobs: IsZero = None
    verbosity: Annotated[Any, AfterValidator(_only("medium"))] = None
    web_search_options: NoValue = None

    @model_validator(mode="after")
    def _agree(self) -> "ChatCompletionRequest":
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise ValueError(f"max_tokens is {both[0]} and max_completion_tokens is {both[1]}: send one of them")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed together with stream: true")
        if len(self.stop_strings) > MAX_STOP_STRINGS:
            raise ValueError(f"stop holds {len(self.stop_strings)} texts, at most {MAX_STOP_STRINGS} are allowed")
        return self

    @property
    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def token_limit(self) -> int | None:
        """Tokens of the answer, if the client set a limit under either name."""
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class Usage(BaseModel):
    """Tokens of one request; the end token counts as completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    """The answer of a plain request."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The only choice: n is 1."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """A plain answer; `model` is the folder's name, `system_fingerprint` the weights hash."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str


class Delta(BaseModel):
    """What a chunk adds; unset fields are not sent."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The only choice of a chunk."""

    index: int
    delta: Delta
    logprobs: None
    finish_reason: FinishReason | None


class ChatCompletionChunk(BaseModel):
    """One event of a stream; dumped with `exclude_unset`, so usage is there only where it was set."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """An entry of /v1/models."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "gpu-assets"


class ModelList(BaseModel):
    """/v1/models: the alias first, then what is held."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail
