"""A run that deploys nothing says so, and after a decision the server lets go of the platform's candidates only."""

import dagster as dg
import pytest

from gpu_assets.deployment.assets import build, release_losers
from gpu_assets.settings import load_settings
from resources.platform import Platform
from resources.routing import Routing
from resources.services import Pool, PoolEntry
from resources.workspace import Workspace
from tests.fakes import ScriptedServer


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


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_of_a_run_in_which_nothing_deserves_to_be_deployed_dagster_misses_no_output(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    platform = Platform(load_settings())
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            build(Routing(platform.settings.hosts)),
            resources={"platform": platform, "inference": ScriptedServer()},
            instance=instance,
        )
        assert result.success
        said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.metadata["served"].value) == ("served_is_recorded", True, "None")
    assert result.asset_materializations_for_node("deployed_model") == []
    assert [sentence for sentence in said if "did not yield" in sentence] == []
    assert [entry.getMessage() for entry in caplog.records if "emitted no result" in entry.getMessage()] == []
