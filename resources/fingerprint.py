"""What a model says to a few fixed prompts, by which another program that computes it can be checked.

Recorded in the manifest when a model is published, computed by transformers alone from the weights as they were
saved. A server whose dtype, attention, architecture or tied weights differ computes another model, which its weights'
hash does not show. Knows nothing of torch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

TOP = 20
"""As many as OpenAI's API gives."""
SMOKE_PROMPTS: tuple[str, ...] = ("What is 2 + 3?", "Hello.", "One two three four five six seven eight nine ten")
"""What a user says; one that asks, one of few tokens, one of many."""

LogProbabilities = Mapping[int, float]
"""Token id to natural log-probability."""


class PromptFingerprint(msgspec.Struct, frozen=True):
    """The likeliest next tokens after one prompt: pairs of id and natural log-probability, best first."""

    prompt_ids: list[int]
    next_tokens: list[tuple[int, float]]

    @property
    def logprobs(self) -> dict[int, float]:
        return dict(self.next_tokens)


class Fingerprint(msgspec.Struct, frozen=True):
    """A model's answers to `SMOKE_PROMPTS`, in their order."""

    prompts: list[PromptFingerprint]

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = msgspec.to_builtins(self)
        return result


def smoke_conversations() -> list[list[dict[str, str]]]:
    """The prompts as conversations, to be rendered as the model's own."""
    return [[{"role": "user", "content": prompt}] for prompt in SMOKE_PROMPTS]


def difference(recorded: LogProbabilities, seen: Sequence[tuple[int, float]]) -> float:
    """Mean absolute difference of the recorded tokens' log-probabilities, weighed by their probabilities, in nats.

    A recorded token that was not seen counts as if it had the least that was: it has that at most. Not finite where
    something seen is not.
    """
    if not seen or not all(math.isfinite(logprob) for _, logprob in seen):
        return math.nan
    found = dict(seen)
    least = min(found.values())
    weights = {token: math.exp(logprob) for token, logprob in recorded.items()}
    total = sum(
        weight * abs(recorded[token] - found.get(token, min(least, recorded[token])))
        for token, weight in weights.items()
    )
    return total / sum(weights.values())
