"""What clients get from OpenAI's API. Types only.

Dumped with `exclude_unset`, so what OpenAI sends as null is set to None and what it leaves out is not set.
"""

from typing import Literal

from pydantic import BaseModel

FinishReason = Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens of one request: a prompt counts once however many its answers, an end token counts as completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(BaseModel):
    """A token that could have been; `bytes` is None where it is no text, as a control token is none."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprob(TopLogprob):
    """A token of the answer, and the likeliest at its place, best first."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """One entry a token of the content."""

    content: list[ChatTokenLogprob]
    refusal: None


class AnswerMessage(BaseModel):
    """The answer of a plain request."""

    role: Literal["assistant"]
    content: str
    refusal: None


class TokenIds(BaseModel):
    """What `return_token_ids` adds to a choice: the tokens of an answer, end token included."""

    token_ids: list[int] | None = None


class ChatChoice(TokenIds):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """A plain answer; `model` is the folder's name, `system_fingerprint` the weights hash."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    prompt_token_ids: list[int] | None = None


class Delta(BaseModel):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(TokenIds):
    """What a chunk adds to one of the answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(BaseModel):
    """One event of a stream; where usage was asked for it is in the last, and null in the others."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None


class CompletionLogprobs(BaseModel):
    """Lists of one entry a token; `text_offset` is where in the choice's text it begins."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(TokenIds):
    """One of the continuations, or what a chunk adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    prompt_token_ids: list[int] | None = None


class TextCompletion(BaseModel):
    """A plain answer, or one event of a stream, whose usage is as in `ChatCompletionChunk`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    system_fingerprint: str
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
