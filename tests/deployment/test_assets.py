"""After a decision the server lets go of the platform's candidates, and of nothing that a person loaded."""

from gpu_assets.deployment.assets import release_losers
from resources.services import Pool, PoolEntry


def entry(name: str, owner: str | None, *, is_champion: bool = False, is_previous: bool = False) -> PoolEntry:
    return PoolEntry(
        id=name,
        name=name,
        weights_sha256=f"weights of {name}",
        checkpoint_step=None,
        path=name,
        renderer_digest="digest",
        is_champion=is_champion,
        is_previous=is_previous,
        in_flight=0,
        owner=owner,
    )


class ScriptedPool:
    """A server that holds these models."""

    def __init__(self, *models: PoolEntry) -> None:
        self.models = models
        self.unloaded: list[str] = []

    def pool(self) -> Pool:
        return Pool(loaded_count=len(self.models), models=self.models)

    def unload(self, model_id: str) -> None:
        self.unloaded.append(model_id)


def test_only_what_the_platform_loaded_and_does_not_serve_is_unloaded() -> None:
    server = ScriptedPool(
        entry("served", "platform", is_champion=True),
        entry("the one before", "platform", is_previous=True),
        entry("candidate", "platform"),
        entry("by hand", None),
    )
    release_losers("weights of served", server)
    assert server.unloaded == ["candidate"]


def test_a_champion_that_a_person_made_meanwhile_stays() -> None:
    server = ScriptedPool(entry("by hand", None, is_champion=True), entry("deployed", "platform"))
    release_losers("weights of deployed", server)
    assert server.unloaded == []
