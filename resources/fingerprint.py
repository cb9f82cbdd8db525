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
CONTINUATION = "Monday comes again when seven days have passed, as every week of the year has seven of them."
"""How an answer goes on in which the next tokens are compared too: what a trained model says first may be certain."""
CUTS = (0, 4, 8, 12)
"""After so many tokens of it."""

LogProbabilities = Mapping[int, float]
"""Token id to natural log-probability."""


class PromptFingerprint(msgspec.Struct, frozen=True):
    """The likeliest next tokens after one prompt: pairs of id and natural log-probability, best first.

    The prompt may have the beginning of an answer.
    """

    prompt_ids: list[int]
    next_tokens: list[tuple[int, float]]

    @property
    def logprobs(self) -> dict[int, float]:
        return dict(self.next_tokens)


class Fingerprint(msgspec.Struct, frozen=True):
    """A model's next tokens after each of `SMOKE_PROMPTS` and each beginning of `CONTINUATION`, in their order.

    Format 1 has had manifests with the prompts alone, which are compared as they are.
    """

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
