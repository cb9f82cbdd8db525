"""The inference server as one who asks it: a person's chat, a generator, another program."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from gpu_assets.settings import Settings
from resources.services import completions
from resources.services.client import ServiceClient
from resources.services.completions import ChatAnswer, ChatPiece, Completion, Message
from resources.services.inference import ModelInfo, Reloaded
from resources.services.sse import event_data

CHAMPION = "champion"
TEMPERATURE = 0.1


class PredictionClient(ServiceClient):
    """Asks the inference server; without a model's id the champion answers, whichever that is by then."""

    def chat(
        self,
        messages: Sequence[Message],
        *,
        model: str | None = None,
        temperature: float = TEMPERATURE,
        max_tokens: int | None = None,
    ) -> ChatAnswer:
        """One answer.

        Args:
            max_tokens: None is as many as the context leaves.
        """
        body = completions.body(messages, model=model or CHAMPION, max_tokens=max_tokens, temperature=temperature)
        return self.post(completions.PATH, body, Completion, idempotent=True).answer

    @contextmanager
    def chat_stream(
        self,
        messages: Sequence[Message],
        *,
        model: str | None = None,
        temperature: float = TEMPERATURE,
        max_tokens: int | None = None,
    ) -> Iterator[Iterator[ChatPiece]]:
        """One answer as it comes; leaving the block before its end has the server stop it.

        Raises:
            ServiceError: also while the pieces are read, if the answer ends midway.
        """
        body = completions.body(
            messages, model=model or CHAMPION, max_tokens=max_tokens, temperature=temperature, stream=True
        )
        call = self._call("POST", completions.PATH, body)
        with self._stream(call) as content:
            yield completions.pieces(call, event_data(content))

    def model_ids(self) -> tuple[str, ...]:
        """What may be asked for: the champion first, if there is one."""
        return tuple(card.id for card in self.get("/v1/models", _Models).data)

    def require_model(self, model: str) -> None:
        """Return if this id means a model now.

        Raises:
            ServiceHttpError: 404 for an id that nothing has.
            ServiceUnavailable: no model is deployed.
        """
        self.get(f"/v1/models/{quote(model, safe='')}", _Card)

    def get_model_info(self) -> ModelInfo:
        """The champion."""
        return self.get("/models/info", ModelInfo)

    def reload_model(self, path: Path) -> Reloaded:
        """Make the model in a folder on the server's host the champion; needs the admin key."""
        return self.post("/models/reload", {"model_path": str(path)}, Reloaded, idempotent=True)

    def get_metrics(self) -> dict[str, Metric]:
        """The server's figures by their families' names, counters without `_total`.

        Raises:
            ServiceDecodeError: if they are not in Prometheus' text format.
        """
        text = self.get_text("/metrics")
        try:
            return {family.name: family for family in text_string_to_metric_families(text)}
        except ValueError as error:
            call = self._call("GET", "/metrics")
            raise call.undecodable(text.encode(), f"the answer is not Prometheus' text format: {error}") from None


def prediction_client(settings: Settings) -> PredictionClient:
    """The client of hosts.json's inference server; see `BaseClient.of_service`."""
    return PredictionClient.of_service("inference", settings)


class _Card(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: tuple[_Card, ...]
