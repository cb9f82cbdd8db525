"""The profile of symbolic answers: prefix operator form, the final answer between two markers."""

import re
from collections.abc import Sequence

from tokenizers import Tokenizer

from gpu_assets.rendering.profiles.base import LogitsProcessor, Message, with_system_prompt

START, END = "<<ANS_START>>", "<<ANS_END>>"
SYSTEM_PROMPT = (
    "You are a symbolic assistant. Write expressions in prefix operator form, (op arg1 arg2). Work step by step and "
    f"be brief. Put the final answer between {START} and {END}."
)
_PIECE = re.compile(r"[()]|[^\s()]+")


class Regime3Profile:
    """Answers carry both markers, past ones too; an expression between them is in canonical form."""

    name = "regime3"
    version = "1.0"
    replaces_thinking_template = True

    def system_prompt(self, configured: str | None) -> str | None:
        return SYSTEM_PROMPT if configured is None else configured

    def transform_prompt(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        marked = [_marked(message) for message in messages]
        return with_system_prompt(marked, self.system_prompt(system_prompt))

    def transform_example(self, messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
        return self.transform_prompt(messages, system_prompt)

    def validate_example(self, messages: Sequence[Message]) -> str | None:
        for turn, message in enumerate(messages, start=1):
            if message["role"] == "assistant" and (fault := _fault(mark(message["content"]))) is not None:
                return f"turn {turn} {fault}"
        return None

    def bare_answer(self, answer: str) -> str:
        return answer.rpartition(START)[2].partition(END)[0].strip()

    def logits_processors(self, tokenizer: Tokenizer, end_token: str) -> Sequence[LogitsProcessor]:
        return ()


def mark(answer: str) -> str:
    """The answer with both markers: a missing one is put at its end of the text."""
    start = "" if START in answer else START
    end = "" if END in answer else END
    return f"{start}{answer}{end}"


def _marked(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    return {**message, "content": mark(message["content"])}


def _fault(answer: str) -> str | None:
    """What is wrong with a marked answer, to follow the turn's number."""
    if answer.count(START) != 1 or answer.count(END) != 1:
        return f"has {answer.count(START)} {START} and {answer.count(END)} {END}, wanted one of each"
    start, end = answer.index(START) + len(START), answer.index(END)
    if end < start:
        return f"has {END} before {START}"
    final = answer[start:end].strip()
    if not final:
        return f"has nothing between {START} and {END}"
    if final.startswith("(") and not is_canonical(final):
        return f"answers {final[:60]!r}, which is not in the form (op arg1 arg2)"
    return None


def is_canonical(expression: str) -> bool:
    """Whether a text is one prefix expression: a symbol and at least one argument in every pair of parentheses."""
    open_sizes: list[int] = []  # members so far of every list that is open
    complete = False
    for piece in _PIECE.findall(expression):
        if complete:
            return False
        if piece == ")":
            if not open_sizes or open_sizes.pop() < 2:
                return False
        else:
            if piece == "(" and open_sizes and open_sizes[-1] == 0:
                return False
            if open_sizes:
                open_sizes[-1] += 1
            if piece == "(":
                open_sizes.append(0)
        complete = not open_sizes
    return complete
