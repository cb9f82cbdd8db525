"""The models that the server holds: the champion, the one before it, and candidates.

A model is its weights: the same name with other weights is another model. A new model is loaded
beside the others and probed before any request can reach it, the alias `champion` flips in one
assignment, and a request keeps the model that it began with until it ends. The model before stays held while
there is room, so that a rollback is a flip. Changes are made one at a time; knows nothing of HTTP.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from gpu_assets.errors import ArtifactInvalid, PlatformError
from gpu_assets.settings import Settings
from resources.workspace import Workspace
from serving.inference.engine import Engine
from serving.inference.held import HeldModel, free, freed
from serving.inference.loader import ModelFolder, inspect_folder
from serving.inference.management import Owner
from serving.inference.memory import GB, Memory, MemoryShort, host_memory, needed_bytes, shortage
from serving.inference.probe import probe
from serving.inference.registry import REGISTRY_FILE, IdReserved, Registration, Registry

logger = logging.getLogger(__name__)

CHAMPION = "champion"
MIN_HASH_DIGITS = 8
"""Of a weights hash, to mean the one model whose hash begins with them."""
PROBE_TIMEOUT_S = 60.0
"""Beside what an engine may take to start."""
CHANGE_ENDS_WITHIN_S = 10.0
"""Once it is cancelled."""

LoadEngine = Callable[[ModelFolder], Engine]


class UnknownModel(PlatformError):
    """No held model has this id."""


class AmbiguousModel(PlatformError):
    """Several held models have this id."""


class NoChampion(PlatformError):
    """Nothing is deployed; the message says why, if that is known."""


class StillLoading(PlatformError):
    """There is no champion that answers, and a model is being loaded."""


class PoolBusy(PlatformError):
    """What was asked for would take a model away that is needed."""


class ModelPool:
    """At most `serving.max_models` models, by weights hash. Used from one event loop.

    Args:
        memory: looks at where `load_engine` puts models; called in a thread, once.

    Attributes:
        starting: the first model is on its way.
        restoring: someone is about to load a champion anew whose engine died.
        unserved_because: why what is recorded as deployed is not served; empty if nothing is known to be wrong.
    """

    def __init__(self, settings: Settings, load_engine: LoadEngine, memory: Callable[[], Memory] = host_memory) -> None:
        self.settings = settings
        self.registry = Registry(Workspace(settings.home).serving / REGISTRY_FILE)
        self.starting = False
        self.restoring = False
        self.unserved_because = ""
        self._load_engine = load_engine
        self._look_at_memory = memory
        self._memory: Memory | None = None
        self._held: dict[str, HeldModel] = {}
        self._champion: HeldModel | None = None
        self._previous: HeldModel | None = None
        self._was_pointed = False
        self._changing = asyncio.Lock()
        self._freeing: set[asyncio.Task[None]] = set()

    @property
    def champion(self) -> HeldModel | None:
        return self._champion

    @property
    def previous(self) -> HeldModel | None:
        """The champion before, while it is held: going back to it loads nothing."""
        return self._previous

    @property
    def models(self) -> list[HeldModel]:
        return list(self._held.values())

    async def load(self, path: Path, owner: Owner | None = None) -> HeldModel:
        """Hold the model in a folder; weights that are held already, by a live engine, are not loaded again.

        Args:
            owner: who may have it unloaded unasked; a model that a person ever loaded is a person's.

        Raises:
            ArtifactInvalid, ProbeFailed: if the model is refused; what is held is untouched.
            PoolBusy, MemoryShort: if there is no room and none can be made.
        """
        async with self._changing:
            return await self._load(path, owner)

    async def reload(self, path: Path, owner: Owner | None = None, weights_sha256: str | None = None) -> HeldModel:
        """Load as `load` does, then point `champion` at the model; the one before stays held.

        Args:
            weights_sha256: the only weights to take from the folder; None takes any.
        """
        async with self._changing:
            model = await self._load(path, owner, weights_sha256)
            self._flip(model)
            return model

    async def serve_first(self, path: Path, owner: Owner, weights_sha256: str | None = None) -> None:
        """Reload as `reload` does, unless `champion` was pointed at a model, or at nothing, before."""
        async with self._changing:
            if not self._was_pointed:
                self._flip(await self._load(path, owner, weights_sha256))

    def register(self, model_id: str, source: str, folder: ModelFolder, tags: list[str]) -> Registration:
        """Give a folder's weights an id, as `Registry.register` does.

        Raises:
            IdReserved: if requests mean something else by the id, as the name of a model that is held.
        """
        for model in self.models:
            if model.name == model_id and model.weights_sha256 != folder.weights_sha256:
                raise IdReserved(
                    f"id: {model_id!r} is the name of a model that is held, with weights {model.weights_sha256}; "
                    "choose another, or unload that one first"
                )
        return self.registry.register(model_id, source, folder, tags)

    async def load_by_id(self, model_id: str) -> HeldModel:
        """Hold a model that is registered, or is held already.

        Raises:
            UnknownModel: if it is neither.
            ArtifactInvalid: if the registered folder holds other weights than those that were registered.
        """
        async with self._changing:
            return await self._load_by_id(model_id)

    async def set_active(self, model_id: str) -> HeldModel:
        """Load as `load_by_id` does, then point `champion` at the model."""
        async with self._changing:
            model = await self._load_by_id(model_id)
            self._flip(model)
            return model

    async def undeploy(self, model_id: str) -> HeldModel | None:
        """Point `champion` at nothing; what it pointed at, which stays held, or None if there was no champion.

        Raises:
            UnknownModel, AmbiguousModel: if the id does not name one model.
            PoolBusy: if the id names another model than the champion.
        """
        async with self._changing:
            champion, self._was_pointed = self._champion, True
            if champion is None:
                return None
            if self.find(model_id) is not champion:
                raise PoolBusy(f"{model_id} is not the champion, {champion.name} is; nothing is changed")
            self._previous, self._champion = champion, None
            logger.info("no champion; it was %s, weights %s", champion.name, champion.weights_sha256)
            return champion

    def require_ready(self) -> HeldModel:
        """The champion, if it answers.

        Raises:
            StillLoading: if none does and a model is being loaded, which may become it.
            NoChampion: if nothing is deployed.
            EngineStopped: if its engine is dead; the message says why it stays so, if that is known.
        """
        champion = self._champion
        dead = champion is not None and not champion.engine.alive
        if champion is not None and dead and self.restoring and not champion.unrestored_because:
            raise StillLoading(f"the engine of {champion.name} has stopped and is started again")
        if self._changing.locked() and (champion is None or dead):
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

    async def restore(self, model: HeldModel) -> bool:
        """Do away with a dead engine: the champion's is loaded anew from its folder, another model is let go.

        Returns whether one was loaded.

        Raises:
            ArtifactInvalid, ProbeFailed, MemoryShort: as `load`; the model stays as it is.
        """
        async with self._changing:
            if model.engine.alive or self._held.get(model.weights_sha256) is not model:
                return False
            if model is not self._champion:
                self._let_go(model)
                return False
            await self._load(model.folder.path, model.owner, model.weights_sha256)
            return True

    def find(self, model_id: str) -> HeldModel:
        """The model that an id in a request means.

        Raises:
            NoChampion: if the id is the alias and nothing is deployed.
            StillLoading: if it is, and the first model is on its way.
            UnknownModel: if nothing that is held has the id.
            AmbiguousModel: if several have it; the message names them.
        """
        if model_id == CHAMPION:
            if self._champion is None and self.starting:
                raise StillLoading("the first model is being loaded")
            if self._champion is None:
                raise NoChampion(self.unserved_because)
            return self._champion
        if model_id in self._held:
            return self._held[model_id]
        registered = self.registry.get(model_id)
        found = [
            model
            for model in self.models
            if model_id in (model.name, model.step_id)
            or (registered is not None and registered.weights_sha256 == model.weights_sha256)
        ]
        if not found and len(model_id) >= MIN_HASH_DIGITS:
            found = [model for model in self.models if model.weights_sha256.startswith(model_id)]
        if not found:
            ids = [CHAMPION] if self._champion is not None else []
            ids += [self.id_of(model) for model in self.models]
            raise UnknownModel(f"model {model_id!r} is not held; held are: {', '.join(ids) or 'none'}")
        if len(found) > 1:
            names = ", ".join(f"{model.name} ({model.weights_sha256})" for model in found)
            raise AmbiguousModel(f"model {model_id!r} could be {names}; ask by weights hash")
        return found[0]

    def id_of(self, model: HeldModel) -> str:
        """The name where it is unambiguous, else the weights hash."""
        same = [other for other in self.models if other.name == model.name]
        return model.name if len(same) == 1 else model.weights_sha256

    async def close(self) -> None:
        """Stop every engine; what has not finished fails.

        A change that was cancelled is waited for: it stops the engine that it had started.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(CHANGE_ENDS_WITHIN_S), self._changing:
                pass
        for task in self._freeing:
            task.cancel()
        engines = [model.engine for model in self.models]
        self._held.clear()
        self._champion = self._previous = None
        await asyncio.gather(*(asyncio.to_thread(engine.stop) for engine in engines))

    def without_home(self, error: BaseException) -> str:
        """What an error says, for those who may ask without a key."""
        return str(error).replace(f"{Workspace(self.settings.home).home}/", "")

    async def _load_by_id(self, model_id: str) -> HeldModel:
        try:
            return self.find(model_id).require_alive()
        except UnknownModel:
            registered = self.registry.get(model_id)
            if registered is None:
                raise
        return await self._load(Path(registered.path), None, registered.weights_sha256)

    async def _load(self, path: Path, owner: Owner | None, weights_sha256: str | None = None) -> HeldModel:
        folder = await asyncio.to_thread(inspect_folder, path, self.settings.profile)
        if weights_sha256 not in (None, folder.weights_sha256):
            raise ArtifactInvalid(
                f"{folder.path} holds weights {folder.weights_sha256}, wanted {weights_sha256}; it was changed since, "
                "so it is not served. Restore the folder, or load it as the model that it is now"
            )
        held = self._held.get(folder.weights_sha256)
        if held is not None:
            owner = owner and held.owner
            if held.engine.alive:
                _check_same_model(held, folder)
                held.owner, held.folder = owner, folder
                return held
            await freed(self._free(held))
        needed = await self._make_room(folder, held)
        engine = await self._start(folder)
        model = HeldModel(folder, engine, datetime.now(UTC), owner, needed, last_used=time.monotonic())
        self._held[folder.weights_sha256] = model
        if held is not None and held is self._champion:
            self._champion = model
        logger.info("holding %s, weights %s", model.name, model.weights_sha256)
        return model

    async def _start(self, folder: ModelFolder) -> Engine:
        """An engine that answers as it should."""
        engine = await asyncio.to_thread(self._load_engine, folder)
        timeout_s = PROBE_TIMEOUT_S + self.settings.serving.vllm.start_timeout_s
        try:
            engine.start()
            await probe(engine, folder, (await self._where()).precision, timeout_s)
        except BaseException:
            await asyncio.to_thread(engine.stop)
            raise
        return engine

    def _flip(self, model: HeldModel) -> None:
        if self._champion is not None and self._champion is not model:
            self._previous = self._champion
        self._champion, self._was_pointed = model, True
        self.unserved_because = ""
        logger.info("champion is %s, weights %s", model.name, model.weights_sha256)

    async def _make_room(self, folder: ModelFolder, replaced: HeldModel | None) -> int:
        """Let go of idle models until another fits; the bytes that it will take."""
        serving, memory = self.settings.serving, await self._where()
        needed = await asyncio.to_thread(needed_bytes, folder.path, memory.precision, serving)
        while len(self._held) - (replaced is not None) >= serving.max_models:
            if not (evictable := self._evictable(replaced)):
                raise PoolBusy(
                    f"{folder.path} is not loaded: {serving.max_models} models are held, and each is the champion or "
                    "has requests in flight; try again when one is idle"
                )
            await freed(self._let_go(evictable[0]))
        while (unused := memory.free_bytes()) is not None:
            short = needed + int(serving.memory_reserve_gb * GB) - unused
            if short <= 0:
                break
            evictable = self._evictable(replaced)
            room = sum(model.needed_bytes for model in evictable)
            if room < short:
                raise MemoryShort(shortage(folder.path, needed, unused, serving.memory_reserve_gb, room))
            await freed(self._let_go(evictable[0]))
        return needed

    async def _where(self) -> Memory:
        if self._memory is None:
            self._memory = await asyncio.to_thread(self._look_at_memory)
        return self._memory

    def _evictable(self, replaced: HeldModel | None) -> list[HeldModel]:
        """Idle models, the least recently used first; the champion before is the last to go."""
        needed = (self._champion, replaced)
        idle = [model for model in self.models if model not in needed and not model.in_flight]
        return sorted(idle, key=lambda model: (model is self._previous, model.last_used))

    def _let_go(self, model: HeldModel) -> "asyncio.Task[None]":
        del self._held[model.weights_sha256]
        if model is self._previous:
            self._previous = None
        return self._free(model)

    def _free(self, model: HeldModel) -> "asyncio.Task[None]":
        task = asyncio.create_task(free(model))
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)
        return task


def _check_same_model(held: HeldModel, folder: ModelFolder) -> None:
    """Weights are one half of a model; the folder must also be configured and rendered for as the held one is."""
    for what, seen, wanted in (
        ("configuration", folder.config_sha256, held.folder.config_sha256),
        ("renderer", folder.renderer.digest, held.folder.renderer.digest),
    ):
        if seen != wanted:
            raise PoolBusy(
                f"{folder.path} has the weights of {held.folder.path}, which is held, and another {what}: {seen}, "
                f"held is {wanted}; unload that one first"
            )
