"""What the pool holds, as clients get it."""

from datetime import datetime

from serving.inference.held import HeldModel
from serving.inference.management import (
    ActiveModel,
    ListedModel,
    ModelInfo,
    ModelListing,
    PoolEntry,
    PoolInfo,
    ProfileInfo,
)
from serving.inference.pool import ModelPool
from serving.inference.registry import Registration


def model_info(pool: ModelPool, model: HeldModel | None) -> ModelInfo:
    """Facts about a model, or that there is none."""
    if model is None or not model.engine.alive:
        return ModelInfo(loaded=False)
    renderer = model.folder.renderer
    return ModelInfo(
        loaded=True,
        id=pool.id_of(model),
        name=model.name,
        weights_sha256=model.weights_sha256,
        checkpoint_step=model.folder.step,
        path=str(model.folder.path),
        profile=ProfileInfo(name=renderer.profile.name, version=renderer.profile.version),
        template_sha256=renderer.template_sha256,
        renderer_digest=renderer.digest,
        loaded_at=_iso(model.loaded_at),
        memory_bytes=model.engine.memory_bytes,
        engine=pool.settings.serving.engine,
    )


def pool_info(pool: ModelPool) -> PoolInfo:
    """All held models whose engines live."""
    entries = [
        PoolEntry(
            **model_info(pool, model).model_dump(),
            is_champion=model is pool.champion,
            is_previous=model is pool.previous,
            in_flight=model.in_flight,
            request_count=model.request_count,
            last_used=None if model.last_used_at is None else _iso(model.last_used_at),
            owner=model.owner,
        )
        for model in pool.models
        if model.engine.alive
    ]
    return PoolInfo(
        loaded_count=len(entries),
        max_models=pool.settings.serving.max_models,
        total_memory_bytes=sum(entry.memory_bytes or 0 for entry in entries),
        models=entries,
    )


def active_model(pool: ModelPool) -> ActiveModel:
    """The champion, dead or alive."""
    champion = pool.champion
    if champion is None:
        return ActiveModel(active_model=None, weights_sha256=None, checkpoint_step=None)
    return ActiveModel(
        active_model=pool.id_of(champion),
        weights_sha256=champion.weights_sha256,
        checkpoint_step=champion.folder.step,
    )


def list_models(pool: ModelPool) -> ModelListing:
    """What is registered, then what is held beside it."""
    registered = [listed_registration(pool, model) for model in pool.registry.models]
    known = {model.weights_sha256 for model in registered}
    held = [
        ListedModel(
            id=pool.id_of(model),
            path=str(model.folder.path),
            source=str(model.folder.path),
            weights_sha256=model.weights_sha256,
            created_at=_iso(model.loaded_at),
            tags=[],
            is_loaded=True,
            is_active=model is pool.champion,
        )
        for model in pool.models
        if model.weights_sha256 not in known
    ]
    return ModelListing(models=[*registered, *held])


def listed_registration(pool: ModelPool, model: Registration) -> ListedModel:
    """A registered model and whether it is held."""
    champion = pool.champion
    return ListedModel(
        id=model.id,
        path=model.path,
        source=model.source,
        weights_sha256=model.weights_sha256,
        created_at=model.created_at,
        tags=model.tags,
        is_loaded=any(held.weights_sha256 == model.weights_sha256 for held in pool.models),
        is_active=champion is not None and champion.weights_sha256 == model.weights_sha256,
    )


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="seconds")
