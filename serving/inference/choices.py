"""One answer of a request: tokens from an engine to pieces of text, with what is known of their tokens beside them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from serving.inference.answers import FinishReason
from serving.inference.engine import Generation, TokenLogprobs, Tokens
from serving.inference.held import HeldModel
from serving.inference.metrics import ABORTED, Metrics
from serving.inference.streaming import Beside, Decode, TextStream

Item = TypeVar("Item")
Placed = tuple[TokenLogprobs, int]
"""A token's log-probabilities, and where in the answer's text it begins."""


@dataclass(frozen=True)
class Piece:
    """What is new of an answer; the last, and no other, has a finish reason.

    The ids are those that came; text and log-probabilities may come with later ids.
    """

    text: str
    token_ids: list[int]
    logprobs: list[Placed]
    finish_reason: FinishReason | None


class AnswerText:
    """Tokens to pieces.

    Args:
        at_once: give log-probabilities with their ids, the end token's too, instead of with their text.
    """

    def __init__(self, decode: Decode, stop_strings: Sequence[str], at_once: bool = False) -> None:
        self._text = TextStream(decode, stop_strings)
        self._beside: Beside[TokenLogprobs] = Beside()
        self._at_once = at_once

    def push(self, tokens: Tokens) -> Piece:
        """The piece of some tokens; it is the last where they are, or where a stop string was found in them."""
        said = tokens.ids[:-1] if tokens.ended else tokens.ids
        held = bool(tokens.logprobs) and not self._at_once
        text = self._push_each(said, tokens.logprobs) if held else self._text.push(said)
        last = tokens.ended is not None or self._text.stopped
        if last:
            text += self._finish()
        logprobs = self._passed(last) if not self._at_once else [(entry, 0) for entry in tokens.logprobs]
        return Piece(text, tokens.ids, logprobs, self._reason(tokens) if last else None)

    def _push_each(self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> str:
        """One by one, to see what text each token adds."""
        text = ""
        for token_id, entry in zip(ids, logprobs, strict=False):
            before = self._text.num_decoded
            text += self._text.push([token_id])
            self._beside.push(entry, before, self._text.num_decoded)
            if self._text.stopped:
                break
        return text

    def _finish(self) -> str:
        before = self._text.num_decoded
        text = self._text.finish()
        self._beside.finish(before, self._text.num_decoded)
        return text

    def _passed(self, last: bool) -> list[Placed]:
        passed = self._beside.passed(self._text.num_passed)
        return passed + self._beside.begun(self._text.num_passed) if last else passed

    def _reason(self, tokens: Tokens) -> FinishReason:
        return "stop" if tokens.ended or self._text.stopped else "length"


@dataclass
class Choice:
    """One answer on its way, and what came of it so far.

    `repeats_prompt` is set for all answers to a prompt but the first, so that the prompt is counted once.
    """

    index: int
    model: HeldModel
    generation: Generation
    stop_strings: tuple[str, ...] = ()
    logprobs_at_once: bool = False
    repeats_prompt: bool = False
    begun: float = field(default_factory=time.perf_counter)
    completion_tokens: int = 0
    first_token_s: float = 0.0
    last_arrival: float | None = None
    finish_reason: FinishReason | None = None

    async def pieces(self, metrics: Metrics) -> AsyncGenerator[Piece, None]:
        """The answer as it becomes certain; closing the iterator cancels the generation."""
        tokenizer = self.model.folder.renderer.tokenizer
        answer = AnswerText(tokenizer.decode, self.stop_strings, self.logprobs_at_once)
        try:
            async with aclosing(self.model.engine.generate(self.generation)) as batches:
                async for tokens in batches:
                    self._count(tokens, metrics)
                    piece = answer.push(tokens)
                    self.finish_reason = piece.finish_reason
                    yield piece
                    if piece.finish_reason is not None:
                        break
        finally:
            self._record(metrics)

    @property
    def prompt_tokens(self) -> int:
        return 0 if self.repeats_prompt else len(self.generation.prompt_ids)

    def _count(self, tokens: Tokens, metrics: Metrics) -> None:
        now = time.perf_counter()
        if self.last_arrival is None:
            self.first_token_s = tokens.first_token_s
        elif tokens.ids:
            metrics.between_tokens(self.model.name, now - self.last_arrival, len(tokens.ids))
        self.last_arrival = now
        self.completion_tokens += len(tokens.ids)

    def _record(self, metrics: Metrics) -> None:
        metrics.record(
            self.model.name,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            first_token_s=self.first_token_s,
            seconds=time.perf_counter() - self.begun,
            finish_reason=self.finish_reason or ABORTED,
        )


async def interleave(sources: Sequence[AsyncGenerator[Item, None]]) -> AsyncGenerator[tuple[int, Item], None]:
    """Items of all sources as they come, each with its source's number.

    The first source that fails ends them all, with its error; closing the iterator closes every source.
    """
    if len(sources) == 1:  # without the tasks, which cost more than the rest
        async with aclosing(sources[0]) as only:
            async for item in only:
                yield 0, item
        return
    items: asyncio.Queue[tuple[int, Item] | None] = asyncio.Queue()
    tasks = [asyncio.create_task(_drain(number, source, items)) for number, source in enumerate(sources)]
    try:
        left = len(tasks)
        while left:
            numbered = await items.get()
            if numbered is not None:
                yield numbered
                continue
            left -= 1
            for task in tasks:
                if task.done():
                    task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(
    number: int, source: AsyncGenerator[Item, None], items: "asyncio.Queue[tuple[int, Item] | None]"
) -> None:
    """Put a source's items into a queue, and None at its end."""
    try:
        async with aclosing(source):
            async for item in source:
                items.put_nowait((number, item))
    finally:
        items.put_nowait(None)
