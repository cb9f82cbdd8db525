"""An asker and a server that follow a script, for what real ones do too rarely."""

from collections.abc import Callable, Sequence
from pathlib import Path

from gpu_assets.errors import ServiceError
from resources.artifacts import weights_sha256
from resources.services import ChatAnswer, ModelInfo

Say = Callable[[str], str]


class ScriptedAsker:
    """Answers every question with `say`, from the weights it is asked for or others; counts its calls."""

    def __init__(self, say: Say, *, weights: str | None = None, finish_reason: str = "stop") -> None:
        self.say, self.weights, self.finish_reason = say, weights, finish_reason
        self.calls: list[dict[str, object]] = []

    def chat_many(
        self, conversations: Sequence[list[dict[str, str]]], *, model: str, max_tokens: int, concurrency: int
    ) -> list[ChatAnswer]:
        self.calls.append({"model": model, "max_tokens": max_tokens, "concurrency": concurrency})
        return [
            ChatAnswer(self.say(conversation[-1]["content"]), self.finish_reason, model, self.weights or model, 3)
            for conversation in conversations
        ]


class ScriptedServer:
    """Serves the folder that it was told to, unless a test breaks it; `reloads` are the folders in order."""

    def __init__(self, text: str = "an answer") -> None:
        self.text = text
        self.reloads: list[Path] = []
        self.served: Path | None = None
        self.refuses: set[Path] = set()
        self.serves_instead: Path | None = None
        self.answers_from: str | None = None
        self.fails_to_answer = False
        self.fails_to_undeploy = False
        self.on_request: Callable[[], None] = lambda: None

    @property
    def weights(self) -> str | None:
        return weights_sha256(self.served) if self.served is not None else None

    def info(self) -> ModelInfo:
        self.on_request()
        return ModelInfo(
            loaded=self.served is not None,
            id=self.weights,
            name=self.served.name if self.served is not None else None,
            weights_sha256=self.weights,
            checkpoint_step=None,
            path=str(self.served) if self.served is not None else None,
            template_sha256=None,
            renderer_digest=None,
            loaded_at=None,
        )

    def reload(self, path: Path) -> ModelInfo:
        self.reloads.append(path)
        if path in self.refuses:
            raise ServiceError(f"{path.name} is refused")
        self.served = self.serves_instead or path
        return self.info()

    def undeploy(self) -> str | None:
        weights, self.served = self.weights, None
        if self.fails_to_undeploy:
            raise ServiceError("no connection")
        return weights

    def chat(self, messages: list[dict[str, str]], *, model: str, max_tokens: int) -> ChatAnswer:
        self.on_request()
        if self.fails_to_answer:
            raise ServiceError("no answer")
        return ChatAnswer(self.text, "stop", model, self.answers_from or self.weights or "", 3)
