"""What the profile `emoji_think` does to logits: no think tags, and an end once the stop emoji are there.

Emoji and tags are looked for in the text of an answer's last tokens, so tokenizers that spread an emoji over
several tokens, or join a tag's last character with what follows, are read alike.
"""

from collections.abc import Callable, Mapping, Sequence

from tokenizers import Tokenizer

from gpu_assets.rendering.profiles.base import NO_BIAS, Bias, RowProcessor
from gpu_assets.rendering.profiles.emoji_text import STOP_COUNTS, THINK_TAGS, FoundRun, Run, asked_stop, stop_runs

THINK_PENALTY = 80.0
THINK_MULTIPLIERS = (8.0,) * 4 + (2.0,) * 4 + (1.5,) * 4
"""By the number of tokens that the answer has already; 1 from there on."""
AFTER_STOP_PENALTY, AFTER_STOP_MAX_POWER = 100.0, 2
"""Times ten to the power of the tokens since the stop, up to that power: 10,000 is finite in half precision too."""
END_BONUS = 50.0
UNSAID = (min(STOP_COUNTS.values()), max(STOP_COUNTS.values()))
"""Stop emoji that end an answer whose prompt does not ask for any: at least, and at most."""
WINDOW_TOKENS = 32
"""Enough for four emoji of seven bytes, a token a byte."""
MAX_CHARACTER_BYTES = 4
REPLACEMENT = "\ufffd"

Decode = Callable[[Sequence[int]], str]


class ThinkTagProcessor:
    """Penalizes the tokens that would complete a think tag, and no others."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decode = _decoder(tokenizer)
        texts = [(text, token) for text, token in tokenizer.get_vocab().items() if THINK_TAGS[0][-1] in text]
        whole = [token for text, token in texts if any(tag in text for tag in THINK_TAGS)]
        self._completing = {"": whole}
        """Beginning of a tag to the tokens that complete it."""
        for tag in THINK_TAGS:
            for size in range(1, len(tag)):
                rest = tag[size:]
                tokens = [token for text, token in texts if text.startswith(rest)]
                self._completing[tag[:size]] = self._completing.get(tag[:size], []) + tokens

    def of_row(self, prompt: Sequence[int]) -> RowProcessor:
        return self

    def bias(self, generated: Sequence[int]) -> Bias:
        """Needs no memory: the answer's length and its last characters say all."""
        steps = len(generated)
        amount = THINK_PENALTY * (THINK_MULTIPLIERS[steps] if steps < len(THINK_MULTIPLIERS) else 1.0)
        tail = self._decode(generated[-len(THINK_TAGS[-1]) :])
        tokens = [token for begun, ids in self._completing.items() if tail.endswith(begun) for token in ids]
        return Bias(tokens=dict.fromkeys(tokens, -amount))


class StopProcessor:
    """Once the stop emoji are complete, penalizes every token but the end token."""

    def __init__(self, tokenizer: Tokenizer, end_token: str) -> None:
        self._decode = _decoder(tokenizer)
        end_id = tokenizer.token_to_id(end_token)
        self._end_tokens = {} if end_id is None else {end_id: END_BONUS}

    def of_row(self, prompt: Sequence[int]) -> RowProcessor:
        return _StopRow(self._decode, asked_stop(self._decode(prompt)), self._end_tokens)


class _StopRow:
    """One answer: where its stop was complete, and how far it was looked at."""

    def __init__(self, decode: Decode, asked: Run | None, end_tokens: Mapping[int, float]) -> None:
        self._decode = decode
        self._asked = asked
        self._end_tokens = end_tokens
        self._seen: list[int] = []
        self._stopped_at: int | None = None

    def bias(self, generated: Sequence[int]) -> Bias:
        if list(generated[: len(self._seen)]) != self._seen:
            self._seen, self._stopped_at = [], None
        for length in range(len(self._seen) + 1, len(generated) + 1):
            if self._stopped_at is None and self._is_complete(generated[max(0, length - WINDOW_TOKENS) : length]):
                self._stopped_at = length
        self._seen = list(generated)
        if self._stopped_at is None:
            return NO_BIAS
        return Bias(-after_stop_penalty(len(generated) - self._stopped_at + 1), self._end_tokens)

    def _is_complete(self, window: Sequence[int]) -> bool:
        text = self._decode(window)
        return any(is_stop(found, text[found.end :], self._asked) for found in stop_runs(text))


def is_stop(found: FoundRun, rest: str, asked: Run | None) -> bool:
    """Whether a run of stop emoji ends an answer.

    The asked emoji does at the asked count. Where the prompt asks for none, any does at four, and at two or
    three once something else follows. A variation selector that is still to come is waited for.

    Args:
        rest: the text after the run.
    """
    if asked is not None and found.run.emoji != asked.emoji:
        return False
    least, most = UNSAID if asked is None else (asked.times, asked.times)
    followed = bool(rest) and not (len(rest) < MAX_CHARACTER_BYTES and set(rest) == {REPLACEMENT})
    if found.run.times > most:
        return True
    return (found.run.times == most and found.whole) or (found.run.times >= least and followed)


def after_stop_penalty(tokens_since: int) -> float:
    """What is taken from every token but the end token; `tokens_since` is 1 right after the stop."""
    return AFTER_STOP_PENALTY * 10.0 ** min(tokens_since, AFTER_STOP_MAX_POWER)


def _decoder(tokenizer: Tokenizer) -> Decode:
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))
