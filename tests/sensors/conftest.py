"""A workspace, a Dagster instance, and a taking-in job whose outcome a test decides."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from resources.workspace import Workspace

PARTITIONS = dg.DynamicPartitionsDefinition(name="datasets")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home").create()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


class Gates:
    """Stands for both gates: which keys a run refuses, and what it does before each."""

    def __init__(self) -> None:
        self.on_key: Callable[[str], None] = lambda key: None


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def definitions(gates: Gates) -> dg.Definitions:
    def validated_datasets(context: dg.AssetExecutionContext) -> None:
        for key in context.partition_keys:
            gates.on_key(key)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # of backfill_policy
        asset = dg.asset(validated_datasets, partitions_def=PARTITIONS, backfill_policy=dg.BackfillPolicy.single_run())

    job = dg.define_asset_job("take_in", [asset])
    return dg.Definitions(assets=[asset], jobs=[job], executor=dg.in_process_executor)
