"""`gpu-assets queue`: what waits for training, and what a person can do about it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import dagster as dg
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from gpu_assets.cli.failures import or_exit
from gpu_assets.datasets.names import display
from gpu_assets.datasets.queue import QueueFacts, QueueRow, add_files, list_inbox, list_queue, retry, set_priority
from gpu_assets.datasets.records import DATASETS_PARTITIONS, list_datasets, open_since
from gpu_assets.errors import SettingsError
from gpu_assets.settings import Priority, load_settings
from resources.workspace import Workspace
from sensors.runs import AD_HOC_JOB, failed_attempts, open_partitions
from sensors.training import trained_keys

queue_app = typer.Typer(help="What waits for training: list it, add to it, change it.", no_args_is_help=True)

VALIDATED_DATASETS = dg.AssetKey("validated_datasets")
CHECKPOINTS = dg.AssetKey("checkpoints")
SCORES = dg.AssetKey("checkpoint_scores")
TAKE_IN_JOB = "take_in"
TRAIN_JOB = "train"
ROW_COUNT = "dagster/row_count"
PAGE = 1000
STATE_STYLES = {"refused": "red", "failed": "red", "trained": "green", "validated": "cyan", "taking in": "yellow"}


class PriorityChoice(StrEnum):
    """The three priorities as the command line offers them."""

    high = "high"
    normal = "normal"
    low = "low"

    @property
    def as_setting(self) -> Priority:
        return self.value


@queue_app.command("list")
@or_exit
def list_command(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show every dataset with its state, and what lies in the inbox."""
    workspace = _workspace()
    with _instance(workspace) as instance:
        facts = QueueFacts() if instance is None else read_facts(instance, workspace)
    rows, inbox = list_queue(workspace, facts), list_inbox(workspace)
    if as_json:
        typer.echo(json.dumps({"datasets": [asdict(row) for row in rows], "inbox": inbox}, indent=2))
        return
    console = Console()
    console.print(_table(rows) if rows else "no dataset was taken in yet; `gpu-assets queue add FILE` drops one")
    if inbox:
        shown = ", ".join(inbox[:5]) + (", ..." if len(inbox) > 5 else "")
        console.print(Text(f"in the inbox, not taken in yet: {len(inbox)} ({shown})"))
    if instance is None:
        console.print("the home has no Dagster instance yet: states are from files only; start `gpu-assets up`")


@queue_app.command("add")
@or_exit
def add_command(
    files: Annotated[list[Path], typer.Argument(help="Files named *.jsonl; FILE.meta.json goes with each.")],
    priority: Annotated[
        PriorityChoice | None, typer.Option(help="The inbox folder; without it the sidecar's, else normal.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="Schema id to write into the sidecar.")] = None,
) -> None:
    """Copy files into the inbox."""
    workspace = _workspace().create()
    added = add_files(workspace, files, priority.as_setting if priority else None, schema)
    for path in added:
        typer.echo(display(str(path)))


@queue_app.command("set-priority")
@or_exit
def set_priority_command(key: str, priority: PriorityChoice) -> None:
    """Change the priority of a dataset that is not trained yet."""
    workspace = _workspace()
    dataset = set_priority(workspace, key, priority.as_setting, _materialized(workspace, CHECKPOINTS))
    typer.echo(f"{dataset.key}: priority {dataset.priority}")


@queue_app.command("retry")
@or_exit
def retry_command(key: str) -> None:
    """Try a refused or failed dataset again."""
    workspace = _workspace()
    dataset = retry(workspace, key, _materialized(workspace, SCORES))
    typer.echo(f"{dataset.key}: the next tick of the sensors tries it again")


def read_facts(instance: dg.DagsterInstance, workspace: Workspace) -> QueueFacts:
    """What the instance knows of the workspace's datasets."""
    partitions = list(instance.get_dynamic_partitions(DATASETS_PARTITIONS))
    taking_in = open_partitions(instance, (TAKE_IN_JOB, AD_HOC_JOB), partitions)
    validated = instance.get_materialized_partitions(VALIDATED_DATASETS)
    trained = instance.get_materialized_partitions(CHECKPOINTS)
    opened = {dataset.key: open_since(dataset) for dataset in list_datasets(workspace) if dataset.key not in trained}
    waiting = {key: since for key, since in opened.items() if key not in validated}
    untrained = {key: since for key, since in opened.items() if key in validated}
    failures = failed_attempts(instance, TAKE_IN_JOB, partitions, waiting)
    failures |= failed_attempts(instance, TRAIN_JOB, partitions, untrained, trained_keys)
    return QueueFacts(validated, trained, taking_in, failures, accepted_rows(instance))


def accepted_rows(instance: dg.DagsterInstance) -> dict[str, int]:
    """Row count of each validated dataset, from its latest materialization."""
    rows: dict[str, int] = {}
    cursor = None
    while True:
        page = instance.fetch_materializations(VALIDATED_DATASETS, limit=PAGE, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization
            count = event.metadata.get(ROW_COUNT) if event is not None else None
            if record.partition_key is not None and count is not None and isinstance(count.value, int):
                rows.setdefault(record.partition_key, count.value)
        if not page.has_more:
            return rows
        cursor = page.cursor


def _workspace() -> Workspace:
    return Workspace(load_settings().home)


def _materialized(workspace: Workspace, asset: dg.AssetKey) -> set[str]:
    with _instance(workspace) as instance:
        return set() if instance is None else instance.get_materialized_partitions(asset)


@contextmanager
def _instance(workspace: Workspace) -> Iterator[dg.DagsterInstance | None]:
    """The Dagster instance of the home, or None if the home has none yet."""
    if not (workspace.dagster / "dagster.yaml").is_file():
        yield None
        return
    try:
        instance = dg.DagsterInstance.from_config(str(workspace.dagster))
    except dg.DagsterError as error:
        raise SettingsError(f"the Dagster instance in {workspace.dagster} does not open: {error}") from None
    with instance:
        yield instance


def _table(rows: list[QueueRow]) -> Table:
    key_column = Column("key", no_wrap=True, min_width=max((len(row.key) for row in rows), default=0))
    table = Table(key_column, "priority", "state", "rows", "size", "age", "", box=None, pad_edge=False)
    now = datetime.now(UTC)
    for row in rows:
        age = (now - datetime.fromisoformat(row.taken_in_at)).total_seconds()
        table.add_row(
            row.key,
            row.priority,
            Text(row.state, STATE_STYLES.get(row.state, "")),
            "" if row.rows is None else str(row.rows),
            human_size(row.size_bytes),
            human_age(age),
            Text(row.sentence),
        )
    return table


def human_size(size_bytes: int) -> str:
    """`999 B`, `1.5 KiB`, ..."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def human_age(seconds: float) -> str:
    """In its largest unit: `12 s`, `3 min`, `5 h`, `2 d`."""
    for limit, divisor, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds // divisor))} {unit}"
    return f"{int(seconds // 86_400)} d"
