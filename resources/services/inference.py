"""The inference server as the platform sees it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec

from gpu_assets.errors import ServiceError
from gpu_assets.settings import Settings
from resources.services import completions
from resources.services.client import ServiceClient
from resources.services.completions import ChatAnswer, Completion, Message

OWNER = "platform"


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the server holds; without one, `loaded` is false and the rest None."""

    loaded: bool
    id: str | None
    name: str | None
    weights_sha256: str | None
    checkpoint_step: int | None
    path: str | None
    template_sha256: str | None
    renderer_digest: str | None
    loaded_at: str | None


class PoolEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A held model and what it is doing."""

    id: str
    name: str
    weights_sha256: str
    checkpoint_step: int | None
    path: str
    renderer_digest: str
    is_champion: bool
    is_previous: bool
    in_flight: int
    owner: str | None


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """All held models."""

    loaded_count: int
    models: tuple[PoolEntry, ...]


class Reloaded(ModelInfo, frozen=True, kw_only=True):
    """The champion after a reload, and how long it took."""

    status: Literal["reloaded"]
    seconds: float


class InferenceClient(ServiceClient):
    """The inference server, as the platform sees it: what is loaded here is the platform's, not a person's."""

    def info(self) -> ModelInfo:
        """The champion."""
        return self.get("/models/info", ModelInfo)

    def pool(self) -> Pool:
        """All held models."""
        return self.get("/models/pool", Pool)

    def load(self, path: Path) -> ModelInfo:
        """Hold the model in a folder beside the champion."""
        return self.post("/models/pool/load", _of_platform(path), ModelInfo, idempotent=True)

    def unload(self, model_id: str) -> None:
        """Let the server forget a model that is not the champion."""
        self.post("/models/pool/unload", {"id": model_id}, dict)

    def reload(self, path: Path) -> Reloaded:
        """Make the model in a folder the champion."""
        return self.post("/models/reload", _of_platform(path), Reloaded, idempotent=True)

    def undeploy(self) -> str | None:
        """Have the server serve no model; the weights that it served, None if it served none."""
        return self.post("/models/undeploy", {"id": "champion"}, _Undeployed, idempotent=True).weights_sha256

    def chat(
        self, messages: Sequence[Message], *, model: str, max_tokens: int | None, temperature: float = 0.0
    ) -> ChatAnswer:
        """One answer, greedy by default."""
        body = completions.body(messages, model=model, max_tokens=max_tokens, temperature=temperature)
        return self.post(completions.PATH, body, Completion, idempotent=True).answer

    def chat_many(
        self, conversations: Sequence[Sequence[Message]], *, model: str, max_tokens: int | None, concurrency: int
    ) -> list[ChatAnswer]:
        """Greedy answers in the order of the conversations, at most `concurrency` in flight.

        Raises:
            ServiceError: of the first that fails; those not begun are not asked.
        """
        with ThreadPoolExecutor(max_workers=concurrency) as threads:
            asked = [
                threads.submit(self.chat, conversation, model=model, max_tokens=max_tokens)
                for conversation in conversations
            ]
            try:
                return [answer.result() for answer in asked]
            except ServiceError:
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def inference_client(settings: Settings) -> InferenceClient:
    """The client of hosts.json's inference server; see `BaseClient.of_service`."""
    return InferenceClient.of_service("inference", settings)


def _of_platform(path: Path) -> dict[str, str]:
    """The body that loads a folder's model as the platform's own."""
    return {"model_path": str(path), "owner": OWNER}


class _Undeployed(msgspec.Struct):
    weights_sha256: str | None
