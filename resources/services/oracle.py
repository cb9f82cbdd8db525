"""The inference server as one who compares checkpoints: the same question to this one or that."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from gpu_assets.errors import ServiceError
from gpu_assets.settings import Settings
from resources.services.completions import ChatAnswer, Message
from resources.services.inference import InferenceClient

PULSE_QUESTION = "ping"
CONCURRENCY = 16


@dataclass(frozen=True)
class Pulse:
    """Whether a held model answers, and within how many seconds; `error` says why it does not."""

    model: str
    weights_sha256: str
    is_champion: bool
    seconds: float
    error: str | None

    @property
    def answers(self) -> bool:
        return self.error is None


class OracleClient(InferenceClient):
    """Asks a checkpoint by its id: its name, checkpoint-N, its weights' hash, or champion."""

    def ask(
        self,
        question: str,
        checkpoint: str,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
    ) -> ChatAnswer:
        """One answer of one checkpoint, greedy by default.

        Args:
            max_tokens: None is as many as the context leaves.
        """
        return self.chat(
            _conversation(question, system), model=checkpoint, max_tokens=max_tokens, temperature=temperature
        )

    def batch(
        self,
        questions: Sequence[str],
        checkpoint: str,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        concurrency: int = CONCURRENCY,
    ) -> list[ChatAnswer]:
        """Greedy answers of one checkpoint in the order of the questions, at most `concurrency` in flight.

        Raises:
            ServiceError: of the first that fails; those not begun are not asked.
        """
        conversations = [_conversation(question, system) for question in questions]
        return self.chat_many(conversations, model=checkpoint, max_tokens=max_tokens, concurrency=concurrency)

    def pulse(self) -> tuple[Pulse, ...]:
        """Each held model, asked for one token by its hash.

        Raises:
            ServiceError: if the server does not say what it holds.
        """
        return tuple(self._pulse(model.name, model.weights_sha256, model.is_champion) for model in self.pool().models)

    def _pulse(self, name: str, weights_sha256: str, is_champion: bool) -> Pulse:
        begun, error = time.monotonic(), None
        try:
            self.ask(PULSE_QUESTION, weights_sha256, max_tokens=1)
        except ServiceError as failed:
            error = str(failed)
        return Pulse(name, weights_sha256, is_champion, time.monotonic() - begun, error)


def oracle_client(settings: Settings) -> OracleClient:
    """The client of hosts.json's inference server; see `BaseClient.of_service`."""
    return OracleClient.of_service("inference", settings)


def _conversation(question: str, system: str | None) -> list[Message]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": question}]
