"""The asset graph is reviewed: keys, deps, partitions, tags, pools, checks, jobs and sensors as committed."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from gpu_assets import definitions, inference, trainer
from resources.routing import HOST_TAG

SNAPSHOT = Path(__file__).parent / "graph.json"
"""After a change that is meant: `python -m tests.architecture.test_graph` writes it anew."""

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def describe(defs: dg.Definitions) -> dict[str, Any]:
    """What a reviewer wants to see of the graph, as JSON."""
    graph = defs.resolve_asset_graph()
    repository = defs.get_repository_def()
    assets = {}
    for key in sorted(graph.get_all_asset_keys(), key=lambda key: key.to_user_string()):
        node = graph.get(key)
        assets[key.to_user_string()] = {
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "partitions": node.partitions_def.name
            if isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
            else None,
            "host": node.tags[HOST_TAG],
            "group": node.group_name,
            "pools": sorted(node.pools or ()),
            "checks": sorted(check.name for check in graph.asset_check_keys if check.asset_key == key),
        }
    return {
        "assets": assets,
        "jobs": {
            job.name: sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys)
            for job in sorted(repository.get_all_jobs(), key=lambda job: job.name)
            if not job.name.startswith("__")
        },
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
    }


def test_the_graph_is_the_committed_one() -> None:
    assert describe(definitions.defs()) == json.loads(SNAPSHOT.read_text())


def test_every_location_is_loadable_and_together_they_are_the_whole() -> None:
    parts = [trainer.defs(), inference.defs()]
    for defs in [*parts, definitions.defs()]:
        dg.Definitions.validate_loadable(defs)
    materializable = [
        {
            spec.key
            for spec in defs.resolve_all_asset_specs()
            if spec.key in defs.resolve_asset_graph().materializable_asset_keys
        }
        for defs in parts
    ]
    assert not materializable[0] & materializable[1]
    assert materializable[0] | materializable[1] == definitions.defs().resolve_asset_graph().materializable_asset_keys


@pytest.mark.parametrize(("location", "host"), [(trainer, "4090"), (inference, "3090")])
def test_every_asset_is_served_by_the_location_of_the_host_that_its_tag_names(location: Any, host: str) -> None:
    graph = location.defs().resolve_asset_graph()
    assert {graph.get(key).tags[HOST_TAG] for key in graph.materializable_asset_keys} == {host}


def test_gpu_work_holds_its_gpus_pool_and_other_work_holds_no_gpu() -> None:
    graph = definitions.defs().resolve_asset_graph()
    pools = {key.to_user_string(): set(graph.get(key).pools or ()) for key in graph.materializable_asset_keys}
    assert pools["checkpoints"] == {"gpu-4090"}
    assert pools["checkpoint_scores"] == {"gpu-3090"}
    assert pools["ranking"] == pools["deployed_model"] == {"promotion"}
    assert pools["datasets"] == pools["validated_datasets"] == {"row_history"}
    assert not pools["base_model"] | pools["evaluation_sets"] | pools["generator_ledger"]


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(describe(definitions.defs()), indent=2) + "\n")
