"""Log-probabilities in the shapes of OpenAI's two APIs. Pure."""

from collections.abc import Sequence

from serving.inference.answers import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob
from serving.inference.choices import Placed
from serving.inference.engine import TokenLogprob
from serving.inference.token_texts import TokenTexts

LEAST = -9999.0
"""What OpenAI writes for a probability of nothing: JSON has no infinity."""


def chat_logprobs(placed: Sequence[Placed], texts: TokenTexts) -> ChatLogprobs:
    """As chat completions have them."""
    content = []
    for entry, _ in placed:
        token, data, logprob = _token(entry.chosen, texts)
        top = [TopLogprob(token=text, bytes=its, logprob=value) for text, its, value in _all(entry.top, texts)]
        content.append(ChatTokenLogprob(token=token, bytes=data, logprob=logprob, top_logprobs=top))
    return ChatLogprobs(content=content, refusal=None)


def completion_logprobs(placed: Sequence[Placed], texts: TokenTexts) -> CompletionLogprobs:
    """As raw completions have them: the chosen token is among the likeliest, whether or not it is."""
    chosen = _all([entry.chosen for entry, _ in placed], texts)
    tops = [_all([*entry.top, entry.chosen], texts) for entry, _ in placed]
    return CompletionLogprobs(
        tokens=[token for token, _, _ in chosen],
        token_logprobs=[logprob for _, _, logprob in chosen],
        top_logprobs=[{token: logprob for token, _, logprob in top} for top in tops],
        text_offset=[begin for _, begin in placed],
    )


def _all(entries: Sequence[TokenLogprob], texts: TokenTexts) -> list[tuple[str, list[int] | None, float]]:
    return [_token(entry, texts) for entry in entries]


def _token(entry: TokenLogprob, texts: TokenTexts) -> tuple[str, list[int] | None, float]:
    text, data = texts.of(entry.id)
    return text, None if data is None else list(data), max(entry.logprob, LEAST)
