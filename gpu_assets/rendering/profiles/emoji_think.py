"""The profile that asks for thinking in emoji, and for stop emoji at the end of every answer.

The question that is to be answered carries the instructions, half of them for thinking emoji too; the answer to
learn carries what was asked. What is asked is drawn from the hash of the conversation up to that question, so the
server asks the same of the same conversation. Past turns carry neither: an answer that comes back from a client as
the model gave it, and a row's, are shown alike.
"""

import hashlib
import json
from collections.abc import Sequence

from tokenizers import Tokenizer

from gpu_assets.rendering.profiles.base import LogitsProcessor, Message, with_system_prompt
from gpu_assets.rendering.profiles.emoji_logits import StopProcessor, ThinkTagProcessor
from gpu_assets.rendering.profiles.emoji_text import (
    STOP_COUNTS,
    STOP_EMOJI,
    THINK_COUNTS,
    THINK_EMOJI,
    Run,
    asked_stop,
    asked_think,
    bare_answer,
    instructions,
    stop_runs,
    without_instructions,
)

SYSTEM_PROMPT = "You are a cheerful assistant who likes to help. Answer the question that you are asked."
THINK_SHARE = 0.5
"""Of the questions that ask for thinking emoji."""


class EmojiThinkProfile:
    """A question that carries a stop instruction already is left as it is; one that says "think with", without a
    thinking instruction."""

    name = "emoji_think"
    version = "1.0"
    replaces_thinking_template = True

    def system_prompt(self, configured: str | None) -> str | None:
        return SYSTEM_PROMPT if configured is None else configured

    def transform_prompt(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        shown = [_shown(message) for message in messages]
        if messages and messages[-1]["role"] == "user":
            question = messages[-1]["content"]
            shown[-1] = {**messages[-1], "content": _asking(question, shown[:-1])}
        return with_system_prompt(shown, self.system_prompt(system_prompt))

    def transform_example(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        prompt, answer = self.transform_prompt(messages[:-1], system_prompt), messages[-1]
        question = prompt[-1]["content"] if prompt and prompt[-1]["role"] == "user" else ""
        return [*prompt, {**answer, "content": _answering(answer["content"], question)}]

    def validate_example(self, messages: Sequence[Message]) -> str | None:
        for turn, message in enumerate(messages, start=1):
            if message["role"] != "assistant":
                continue
            if turn == 1 or messages[turn - 2]["role"] != "user":
                return f"turn {turn} answers no question, so nothing can ask it for emoji"
            if (fault := _fault(bare_answer(message["content"]))) is not None:
                return f"turn {turn} {fault}"
        return None

    def bare_answer(self, answer: str) -> str:
        return bare_answer(answer)

    def logits_processors(self, tokenizer: Tokenizer, end_token: str) -> Sequence[LogitsProcessor]:
        return (ThinkTagProcessor(tokenizer), StopProcessor(tokenizer, end_token))


def _shown(message: Message) -> Message:
    """A turn as it is shown once it is past."""
    if message["role"] == "assistant":
        return {**message, "content": bare_answer(message["content"])}
    if message["role"] == "user":
        return {**message, "content": without_instructions(message["content"])}
    return message


def _asking(question: str, before: Sequence[Message]) -> str:
    """The question with what it asks for."""
    if asked_stop(question) is not None:
        return question
    turns = [[message["role"], message["content"]] for message in before if message["role"] != "system"]
    seed = hashlib.sha256(json.dumps([*turns, question]).encode()).hexdigest()
    think = None
    if "think with" not in question.lower() and _draw(seed, "mode", 100) < 100 * THINK_SHARE:
        think = Run(THINK_EMOJI[_draw(seed, "think", len(THINK_EMOJI))], _count(seed, "think count", THINK_COUNTS))
    stop = Run(STOP_EMOJI[_draw(seed, "stop", len(STOP_EMOJI))], _count(seed, "stop count", STOP_COUNTS))
    return question + instructions(think, stop)


def _answering(answer: str, question: str) -> str:
    """The answer with what its question asks for, and no other emoji of the protocol."""
    think, stop = asked_think(question), asked_stop(question)
    before = "" if think is None else f"{think.text}\n"
    after = "" if stop is None else f"\n{stop.text}"
    return f"{before}{bare_answer(answer)}{after}"


def _fault(answer: str) -> str | None:
    """What is wrong with a bare answer, to follow the turn's number."""
    if not answer:
        return "says nothing beside think tags and emoji that the profile puts around answers"
    runs = [found.run for found in stop_runs(answer) if found.run.times > 1]
    if runs:
        return f"has {runs[0].text} inside it, where the server would end the answer"
    return None


def _count(seed: str, what: str, counts: dict[str, int]) -> int:
    return list(counts.values())[_draw(seed, what, len(counts))]


def _draw(seed: str, what: str, choices: int) -> int:
    """A number below `choices`, of its own for each purpose."""
    return int.from_bytes(hashlib.sha256(f"{what} {seed}".encode()).digest()[:8]) % choices
