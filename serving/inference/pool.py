"""The models that the server holds: the champion, the one before it, and candidates.

A model is its weights: the same name with other weights is another model. A new model is loaded
beside the others and warmed up before any request can reach it, the alias `champion` flips in one
assignment, and a request keeps the model that it began with until it ends. Changes are made one at a
time; knows nothing of HTTP.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from gpu_assets.errors import PlatformError
from gpu_assets.settings import Settings
from serving.inference.engine import Engine, EngineStopped, Generation
from serving.inference.loader import ModelFolder, inspect_folder
from serving.inference.management import ModelInfo, Owner, PoolEntry, PoolInfo, ProfileInfo

logger = logging.getLogger(__name__)

CHAMPION = "champion"
MAX_MODELS = 3
WARM_UP_TOKENS = 4

LoadEngine = Callable[[ModelFolder], Engine]


class UnknownModel(PlatformError):
    """No held model has this id."""


class AmbiguousModel(PlatformError):
    """Several held models have this id."""


class NoChampion(PlatformError):
    """Nothing is deployed."""


class StillLoading(PlatformError):
    """There is no champion that answers, and a model is being loaded."""


class PoolBusy(PlatformError):
    """What was asked for would take a model away that is needed."""


@dataclass(eq=False)
class HeldModel:
    """A loaded model; `last_used` orders models by when a request last began."""

    folder: ModelFolder
    engine: Engine
    loaded_at: datetime
    owner: Owner | None = None
    in_flight: int = 0
    last_used: float = 0.0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def weights_sha256(self) -> str:
        return self.folder.weights_sha256

    @cached_property
    def control_tokens(self) -> frozenset[str]:
        return self.folder.renderer.special_tokens()

    def require_alive(self) -> "HeldModel":
        """The model itself.

        Raises:
            EngineStopped: if its engine is dead.
        """
        if not self.engine.alive:
            raise EngineStopped(f"the engine of {self.name} has stopped; POST /models/reload loads a model anew")
        return self

    @contextmanager
    def lease(self) -> Iterator["HeldModel"]:
        """Keep the model's engine running while a request uses it."""
        self.in_flight += 1
        self.last_used = time.monotonic()
        self.idle.clear()
        try:
            yield self
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()


class ModelPool:
    """At most `MAX_MODELS` models, by weights hash. Used from one event loop."""

    def __init__(self, settings: Settings, load_engine: LoadEngine) -> None:
        self._profile = settings.profile
        self._load_engine = load_engine
        self._held: dict[str, HeldModel] = {}
        self._champion: HeldModel | None = None
        self._changing = asyncio.Lock()
        self._freeing: set[asyncio.Task[None]] = set()

    @property
    def champion(self) -> HeldModel | None:
        return self._champion

    @property
    def models(self) -> list[HeldModel]:
        return list(self._held.values())

    async def load(self, path: Path, owner: Owner | None = None) -> HeldModel:
        """Hold the model in a folder; weights that are held already, by a live engine, are not loaded again.

        Args:
            owner: who may have it unloaded unasked; a model that a person ever loaded is a person's.

        Raises:
            ArtifactInvalid: if the folder is refused; what is held is untouched.
            PoolBusy: if the pool is full and no model can go.
        """
        async with self._changing:
            return await self._load(path, owner)

    async def reload(self, path: Path, owner: Owner | None = None) -> HeldModel:
        """Load as `load` does, then point `champion` at the model; the one before stays held."""
        async with self._changing:
            model = await self._load(path, owner)
            self._champion = model
            logger.info("champion is %s, weights %s", model.name, model.weights_sha256)
            return model

    async def undeploy(self, model_id: str) -> HeldModel | None:
        """Point `champion` at nothing; what it pointed at, which stays held, or None if there was no champion.

        Raises:
            UnknownModel, AmbiguousModel: if the id does not name one model.
            PoolBusy: if the id names another model than the champion.
        """
        async with self._changing:
            champion = self._champion
            if champion is None:
                return None
            if self.find(model_id) is not champion:
                raise PoolBusy(f"{model_id} is not the champion, {champion.name} is; nothing is changed")
            self._champion = None
            logger.info("no champion; it was %s, weights %s", champion.name, champion.weights_sha256)
            return champion

    def require_ready(self) -> HeldModel:
        """The champion, if it answers.

        Raises:
            StillLoading: if none does and a model is being loaded, which may become it.
            NoChampion: if nothing is deployed.
            EngineStopped: if its engine is dead.
        """
        champion = self._champion
        if self._changing.locked() and (champion is None or not champion.engine.alive):
            raise StillLoading("a model is being loaded")
        return self.find(CHAMPION).require_alive()

    async def unload(self, model_id: str) -> HeldModel:
        """Let go of a model; requests that it has begun are finished.

        Raises:
            UnknownModel, AmbiguousModel: if the id does not name one model.
            PoolBusy: if it is the champion.
        """
        async with self._changing:
            model = self.find(model_id)
            if model is self._champion:
                raise PoolBusy(
                    f"{model.name} is the champion and is not unloaded; reload another model first, "
                    "or POST /models/undeploy"
                )
            self._let_go(model)
            return model

    def find(self, model_id: str) -> HeldModel:
        """The model that an id in a request means.

        Raises:
            NoChampion: if the id is the alias and nothing is deployed.
            UnknownModel: if nothing that is held has the id.
            AmbiguousModel: if several have it; the message names them.
        """
        if model_id == CHAMPION:
            if self._champion is None:
                raise NoChampion("no model is deployed")
            return self._champion
        if model_id in self._held:
            return self._held[model_id]
        found = [model for model in self.models if model_id in (model.name, _step_id(model))]
        if not found:
            ids = [CHAMPION, *(self.id_of(model) for model in self.models)]
            raise UnknownModel(f"model {model_id!r} is not held; held are: {', '.join(ids)}")
        if len(found) > 1:
            names = ", ".join(f"{model.name} ({model.weights_sha256})" for model in found)
            raise AmbiguousModel(f"model {model_id!r} could be {names}; ask by weights hash")
        return found[0]

    def id_of(self, model: HeldModel) -> str:
        """The name where it is unambiguous, else the weights hash."""
        same = [other for other in self.models if other.name == model.name]
        return model.name if len(same) == 1 else model.weights_sha256

    def info(self, model: HeldModel | None) -> ModelInfo:
        """Facts about a model, or that there is none."""
        if model is None or not model.engine.alive:
            return ModelInfo(loaded=False)
        renderer = model.folder.renderer
        return ModelInfo(
            loaded=True,
            id=self.id_of(model),
            name=model.name,
            weights_sha256=model.weights_sha256,
            checkpoint_step=model.folder.step,
            path=str(model.folder.path),
            profile=ProfileInfo(name=renderer.profile.name, version=renderer.profile.version),
            template_sha256=renderer.template_sha256,
            renderer_digest=renderer.digest,
            loaded_at=model.loaded_at.isoformat(timespec="seconds"),
        )

    def describe(self) -> PoolInfo:
        """All held models."""
        entries = [
            PoolEntry(
                **self.info(model).model_dump(),
                is_champion=model is self._champion,
                in_flight=model.in_flight,
                owner=model.owner,
            )
            for model in self.models
        ]
        return PoolInfo(loaded_count=len(entries), models=entries)

    async def close(self) -> None:
        """Stop every engine; what has not finished fails."""
        for task in self._freeing:
            task.cancel()
        engines = [model.engine for model in self.models]
        self._held.clear()
        self._champion = None
        await asyncio.gather(*(asyncio.to_thread(engine.stop) for engine in engines))

    async def _load(self, path: Path, owner: Owner | None) -> HeldModel:
        folder = await asyncio.to_thread(inspect_folder, path, self._profile)
        held = self._held.get(folder.weights_sha256)
        if held is not None:
            owner = owner and held.owner
        if held is not None and held.engine.alive:
            _check_same_renderer(held, folder)
            held.owner = owner
            return held
        if held is not None:
            self._let_go(held)
        self._make_room(folder)
        engine = await asyncio.to_thread(self._load_engine, folder)
        try:
            engine.start()
            await _warm_up(engine, folder)
        except BaseException:
            await asyncio.to_thread(engine.stop)
            raise
        model = HeldModel(folder, engine, datetime.now(UTC), owner, last_used=time.monotonic())
        model.idle.set()
        self._held[folder.weights_sha256] = model
        if held is not None and held is self._champion:
            self._champion = model
        logger.info("holding %s, weights %s", model.name, model.weights_sha256)
        return model

    def _make_room(self, folder: ModelFolder) -> None:
        """Evict the least recently used model that is neither champion nor busy, if the pool is full."""
        if len(self._held) < MAX_MODELS:
            return
        evictable = [model for model in self.models if model is not self._champion and not model.in_flight]
        if not evictable:
            raise PoolBusy(
                f"{folder.path} is not loaded: {MAX_MODELS} models are held, and each is the champion or has "
                "requests in flight; try again when one is idle"
            )
        self._let_go(min(evictable, key=lambda model: model.last_used))

    def _let_go(self, model: HeldModel) -> None:
        del self._held[model.weights_sha256]
        task = asyncio.create_task(_free(model))
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)


async def _free(model: HeldModel) -> None:
    """Stop an engine once its last request has ended."""
    try:
        await model.idle.wait()
    finally:
        await asyncio.to_thread(model.engine.stop)
    logger.info("let go of %s, weights %s", model.name, model.weights_sha256)


async def _warm_up(engine: Engine, folder: ModelFolder) -> None:
    prompt = folder.renderer.prompt_ids([{"role": "user", "content": "hello"}])
    async for _ in engine.generate(Generation(prompt, max_tokens=WARM_UP_TOKENS)):
        pass


def _check_same_renderer(held: HeldModel, folder: ModelFolder) -> None:
    if held.folder.renderer.digest != folder.renderer.digest:
        raise PoolBusy(
            f"{folder.path} has the weights of {held.folder.path}, which is held, and another renderer: "
            f"{folder.renderer.digest}, held is {held.folder.renderer.digest}; unload that one first"
        )


def _step_id(model: HeldModel) -> str | None:
    return None if model.folder.step is None else f"checkpoint-{model.folder.step}"
