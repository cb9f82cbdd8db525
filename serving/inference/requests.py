"""Requests to generations: what was asked, checked against the model that is asked."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from gpu_assets.rendering.template import RESERVED_VARIABLES
from serving.inference.answers import Usage
from serving.inference.choices import Choice, Piece, interleave
from serving.inference.engine import Generation, JsonGrammar, Sampling
from serving.inference.errors import RETRY_AFTER_S, ApiError
from serving.inference.grammar import check_grammar
from serving.inference.held import HeldModel
from serving.inference.metrics import Metrics
from serving.inference.protocol import ChatCompletionRequest, CompletionRequest
from serving.inference.token_texts import TokenTexts

Asked = ChatCompletionRequest | CompletionRequest
P = ParamSpec("P")
Result = TypeVar("Result")
INLINE_CHARACTERS = 8192
"""Longer texts are rendered and tokenized in a thread, so that the event loop is not held up."""
HEAVY_CHARACTERS = 65_536
"""Still longer ones are so one at a time: the tokens of a megabyte take a hundred while they are made."""
MESSAGE_CHARACTERS = 32
"""What a message costs beside its text."""

_heavy = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heavy-prompts")


@dataclass(frozen=True)
class Completion:
    """A request on its way: its answers, `n` to each prompt in the order of the prompts.

    `token_ids` and `usage_in_stream` say what is given beside the text; `token_texts` writes its log-probabilities, and
    is None where none are wanted.
    """

    id: str
    model: HeldModel
    choices: tuple[Choice, ...]
    token_texts: TokenTexts | None
    token_ids: bool
    usage_in_stream: bool
    echoes: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def identity(self) -> dict[str, Any]:
        """What every answer and every chunk of one says of itself."""
        return {
            "id": self.id,
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": self.model.weights_sha256,
        }

    async def pieces(self, metrics: Metrics) -> AsyncGenerator[tuple[int, Piece], None]:
        """Pieces of all answers as they come, with the answer's index; closing cancels what is unfinished."""
        async with aclosing(interleave([choice.pieces(metrics) for choice in self.choices])) as numbered:
            async for index, piece in numbered:
                yield index, piece

    async def answers(self, metrics: Metrics) -> list[Piece]:
        """All answers once they are complete."""
        pieces: list[list[Piece]] = [[] for _ in self.choices]
        async with aclosing(self.pieces(metrics)) as numbered:
            async for index, piece in numbered:
                pieces[index].append(piece)
        return [_joined(of_choice) for of_choice in pieces]

    @property
    def usage(self) -> Usage:
        prompt = sum(choice.prompt_tokens for choice in self.choices)
        completion = sum(choice.completion_tokens for choice in self.choices)
        return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


async def prepare_chat(request: ChatCompletionRequest, model: HeldModel, max_queue: int) -> Completion:
    """Render a conversation for a model.

    Raises:
        ApiError: if it does not fit the context, holds what no message may, or the queue is full.
        GrammarError: if answers cannot be held to its schema.
        RenderingError: if the template refuses the conversation.
    """
    begun = time.perf_counter()
    check_queue(model, max_queue)
    await _check_grammar(request)
    _check_messages(request, model)
    prompt_ids = await _chat_ids(request, model)
    generation = _generation(request, model, prompt_ids, request.token_limit, "messages")
    return _completion("chatcmpl", request, model, [generation], begun)


async def prepare_text(request: CompletionRequest, model: HeldModel, max_queue: int) -> Completion:
    """Tokenize raw prompts for a model.

    Raises:
        ApiError: if one does not fit the context, holds what is no token or no text, or the queue is full.
        GrammarError: if answers cannot be held to its schema.
    """
    begun = time.perf_counter()
    check_queue(model, max_queue)
    await _check_grammar(request)
    prompts = await _text_ids(request, model)
    generations = [_generation(request, model, ids, request.token_limit, "prompt") for ids in prompts]
    completion = _completion("cmpl", request, model, generations, begun)
    return replace(completion, echoes=_echoes(request, model)) if request.echo else completion


def check_queue(model: HeldModel, max_queue: int) -> None:
    """Refuse a request where too many wait already."""
    waiting = model.engine.stats().waiting
    if waiting >= max_queue:
        raise ApiError(
            429,
            f"{waiting} requests wait for {model.name}, at most {max_queue} may (serving.max_queue); try again later",
            code="queue_full",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )


async def _check_grammar(request: Asked) -> None:
    """Before a stream has begun; in a thread, since a schema may take long to compile."""
    if (grammar := _grammar(request)) is not None:
        await asyncio.to_thread(check_grammar, grammar)


def _completion(
    kind: str, request: Asked, model: HeldModel, generations: Sequence[Generation], begun: float
) -> Completion:
    as_ids = bool(request.return_tokens_as_token_ids)
    tokenizer, logprobs = model.folder.renderer.tokenizer, request.logprobs_wanted is not None
    numbered = [(generation, number) for generation in generations for number in range(request.num_choices)]
    choices = [
        Choice(
            index=index,
            model=model,
            generation=_of_choice(generation, number),
            stop_strings=request.stop_strings,
            logprobs_at_once=as_ids,
            repeats_prompt=number > 0,
            begun=begun,
        )
        for index, (generation, number) in enumerate(numbered)
    ]
    return Completion(
        id=f"{kind}-{uuid.uuid4().hex}",
        model=model,
        choices=tuple(choices),
        token_texts=TokenTexts(tokenizer, as_ids) if logprobs else None,
        token_ids=bool(request.return_token_ids),
        usage_in_stream=request.include_usage,
    )


def _of_choice(generation: Generation, number: int) -> Generation:
    """Answers to one prompt differ by their seeds, within the 64 bits of one."""
    seed = generation.sampling.seed
    if seed is None or number == 0:
        return generation
    return replace(generation, sampling=replace(generation.sampling, seed=(seed + number + 2**63) % 2**64 - 2**63))


def _generation(
    request: Asked, model: HeldModel, prompt_ids: list[int], token_limit: int | None, param: str
) -> Generation:
    return Generation(
        prompt_ids=prompt_ids,
        max_tokens=_max_tokens(token_limit, len(prompt_ids), model.engine.max_context_tokens, param),
        sampling=_sampling(request, model),
        incremental=bool(request.stream) or bool(request.stop_strings),
        top_logprobs=request.logprobs_wanted,
        grammar=_grammar(request),
    )


def _sampling(request: Asked, model: HeldModel) -> Sampling:
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=request.top_k or 0,
        min_p=request.min_p or 0.0,
        seed=request.seed,
        logit_bias=_logit_bias(request, model),
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
    )


def _logit_bias(request: Asked, model: HeldModel) -> dict[int, float]:
    biases = {int(token): bias for token, bias in (request.logit_bias or {}).items()}
    _check_ids(list(biases), model, "logit_bias")
    return biases


def _grammar(request: Asked) -> JsonGrammar | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    return JsonGrammar(wanted.json_schema.schema_ if wanted.json_schema is not None else None)


def _max_tokens(wanted: int | None, prompt_tokens: int, context: int, param: str) -> int:
    """Tokens that the answer may have."""
    if prompt_tokens + (wanted or 1) > context:
        asked = f" and {wanted} for the answer" if wanted else ""
        raise ApiError(
            400,
            f"this model's context is {context} tokens, the request has {prompt_tokens} in the {param}{asked}; "
            f"shorten the {param} or lower max_tokens",
            code="context_length_exceeded",
            param=param,
        )
    return wanted if wanted is not None else context - prompt_tokens


async def _chat_ids(request: ChatCompletionRequest, model: HeldModel) -> list[int]:
    messages = [
        {"role": "system" if message.role == "developer" else message.role, "content": message.text}
        for message in request.messages
    ]
    characters = sum(MESSAGE_CHARACTERS + len(message["content"]) for message in messages)
    return await aside(characters, model.folder.renderer.prompt_ids, messages, request.chat_template_kwargs)


async def _text_ids(request: CompletionRequest, model: HeldModel) -> list[list[int]]:
    """Ids of the prompts; texts as the tokenizer reads them by itself."""
    if ids := request.id_lists:
        _check_ids([token_id for prompt in ids for token_id in prompt], model, "prompt")
        return ids
    for text in request.texts:
        _refuse("prompt", _half_character(text))
    encode = model.folder.renderer.tokenizer.encode_batch_fast
    encodings = await aside(sum(map(len, request.texts)), encode, request.texts)
    return [encoding.ids for encoding in encodings]


async def aside(characters: int, work: Callable[P, Result], *arguments: P.args, **named: P.kwargs) -> Result:
    """What work on so long a text gives, done where it holds up nobody."""
    if characters <= INLINE_CHARACTERS:
        return work(*arguments, **named)
    executor = _heavy if characters > HEAVY_CHARACTERS else None
    return await asyncio.get_running_loop().run_in_executor(executor, partial(work, *arguments, **named))


def _echoes(request: CompletionRequest, model: HeldModel) -> tuple[str, ...]:
    """What stands before each answer: its prompt as it was given."""
    decode = model.folder.renderer.tokenizer.decode
    texts = request.texts or [decode(ids, skip_special_tokens=False) for ids in request.id_lists]
    return tuple(text for text in texts for _ in range(request.num_choices))


def _check_ids(token_ids: Sequence[int], model: HeldModel, param: str) -> None:
    known = model.folder.renderer.tokenizer.id_to_token
    unknown = next((token_id for token_id in token_ids if known(token_id) is None), None)
    if unknown is not None:
        raise ApiError(
            400, f"{param} holds {unknown}, which is no token of {model.name}", code="invalid_value", param=param
        )


def _check_messages(request: ChatCompletionRequest, model: HeldModel) -> None:
    for index, message in enumerate(request.messages):
        _refuse(f"messages.{index}.content", _control_token(message.text, model) or _half_character(message.text))
    _check_variables(request.chat_template_kwargs or {}, model)


def _check_variables(variables: Mapping[str, Any], model: HeldModel) -> None:
    param, reserved = "chat_template_kwargs", sorted(RESERVED_VARIABLES & variables.keys())
    _refuse(param, f"{reserved[0]!r}, which is not a request's to set" if reserved else None)
    try:
        text = json.dumps(variables, ensure_ascii=False)
    except RecursionError:
        raise ApiError(400, f"{param} is nested too deeply", code="invalid_value", param=param) from None
    _refuse(param, _control_token(text, model) or _half_character(text))


def _refuse(param: str, problem: str | None) -> None:
    if problem is not None:
        raise ApiError(400, f"{param} holds {problem}; take it out", code="invalid_value", param=param)


def _control_token(text: str, model: HeldModel) -> str | None:
    """What no message may hold: it would end the turn and speak as another role."""
    token = next((token for token in model.control_tokens if token in text), None)
    return None if token is None else f"{token!r}, a control token of {model.name}"


def _half_character(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{error.object[error.start]!r}, half of a surrogate pair"
    return None


def _joined(pieces: Sequence[Piece]) -> Piece:
    """One answer of all its pieces."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        text="".join(piece.text for piece in pieces),
        token_ids=[token_id for piece in pieces for token_id in piece.token_ids],
        logprobs=[placed for piece in pieces for placed in piece.logprobs],
        finish_reason=pieces[-1].finish_reason,
    )
