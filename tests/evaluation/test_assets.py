"""Which partitions a scoring run records: what it covers and what its config names, and no file between them."""

from pathlib import Path

import dagster as dg
import pytest

from gpu_assets.datasets.records import DATASETS_PARTITIONS
from gpu_assets.evaluation.assets import build_scores
from gpu_assets.settings import load_settings
from resources.platform import Platform
from resources.routing import Routing
from resources.workspace import Workspace
from tests.fakes import ScriptedAsker
from tests.values import make_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


class ScriptedInference(ScriptedAsker):
    """An asker that also loads what it is told to."""

    def __init__(self) -> None:
        super().__init__(lambda _: "= ①")
        self.loaded: list[Path] = []

    def load(self, path: Path) -> None:
        self.loaded.append(path)


def test_a_run_scores_what_it_covers_and_what_its_config_names_and_asks_once(workspace: Workspace) -> None:
    checkpoint = make_checkpoint(workspace, 5, sequence=1, datasets=("a", "b"))
    platform, inference = Platform(load_settings()), ScriptedInference()
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(DATASETS_PARTITIONS, ["a", "refused", "b"])
        result = dg.materialize(
            build_scores(Routing(platform.settings.hosts)),
            partition_key="a",
            run_config={"ops": {"checkpoint_scores": {"config": {"also": ["b"]}}}},
            resources={"platform": platform, "inference": inference},
            instance=instance,
        )
        assert result.success
        scores = dg.AssetKey("checkpoint_scores")
        assert instance.get_materialized_partitions(scores) == {"a", "b"}
        records = instance.fetch_materializations(scores, limit=10).records
    events = [record.asset_materialization for record in records]
    assert {event.metadata["checkpoint"].value for event in events if event} == {checkpoint.name}
    assert len({event.tags["dagster/data_version"] for event in events if event and event.tags}) == 1
    assert len(inference.calls) == 1
