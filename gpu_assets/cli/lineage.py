"""`gpu-assets lineage`: who made what, which rows made a model, and which models saw a row.

Dagster, polars and OpenLineage are imported inside the functions, which keeps `gpu-assets --help` quick.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from gpu_assets.cli.failures import or_exit
from gpu_assets.errors import SettingsError
from gpu_assets.settings import load_settings
from resources.platform import Platform


@or_exit
def lineage(
    model: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="What made it: its name, or 8 digits of its weights.")
    ] = None,
    row: Annotated[
        str | None, typer.Option(metavar="FILE:LINE|HASH", help="Who saw it: a line, KEY:LINE, or a row's sha256.")
    ] = None,
    export_openlineage: Annotated[
        bool, typer.Option("--export-openlineage", help="Write the files of all ended runs that have none.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what each generator and validator did, or trace a model or a row."""
    if sum((model is not None, row is not None, export_openlineage)) > 1:
        raise SettingsError("--model, --row and --export-openlineage are three questions; ask one at a time")
    platform = Platform(load_settings())
    if model is not None:
        value, shown = _model(platform, model)
    elif row is not None:
        value, shown = _row(platform, row)
    elif export_openlineage:
        value, shown = _export(platform)
    else:
        value, shown = _ledger(platform)
    if as_json:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        Console().print(shown)


def _ledger(platform: Platform) -> tuple[Mapping[str, Any], RenderableType]:
    from gpu_assets.cli.lineage_table import ledger_table
    from gpu_assets.cli.queue_facts import open_instance
    from gpu_assets.lineage.events import Observed, read_validations
    from gpu_assets.lineage.ledger import build_ledger

    with open_instance(platform.workspace) as instance:
        if instance is None and any(platform.workspace.dagster.glob("*")):
            raise SettingsError(
                f"{platform.workspace.dagster} holds files of a Dagster instance but no dagster.yaml, which opens it; "
                "`gpu-assets up` links the file"
            )
        observed = Observed((), (), None) if instance is None else read_validations(instance)
    for sentence in observed.unreadable:
        typer.secho(f"not counted: {sentence}", err=True, fg="yellow")
    ledger = build_ledger(observed.validations)
    return ledger.to_lineage_json(), ledger_table(ledger)


def _model(platform: Platform, wanted: str) -> tuple[Mapping[str, Any], RenderableType]:
    from gpu_assets.cli.lineage_table import model_table
    from gpu_assets.lineage.trace import find_checkpoint, rows_of

    found = rows_of(platform.workspace, find_checkpoint(platform.workspace, wanted))
    return found.to_json(), model_table(found)


def _row(platform: Platform, wanted: str) -> tuple[Mapping[str, Any], RenderableType]:
    from gpu_assets.cli.lineage_table import row_lines
    from gpu_assets.lineage.rows import find_row
    from gpu_assets.lineage.trace import seen_by

    found = find_row(platform.workspace, wanted, platform.settings.validation.max_row_bytes)
    trace = seen_by(platform.workspace, found)
    return trace.to_json(), row_lines(trace)


def _export(platform: Platform) -> tuple[Mapping[str, Any], RenderableType]:
    from gpu_assets.cli.queue_facts import open_instance
    from gpu_assets.lineage.events import ended_runs, read_ended_run
    from gpu_assets.lineage.openlineage import export_folder, export_runs

    with open_instance(platform.workspace) as instance:
        if instance is None:
            raise SettingsError("the home has no Dagster instance yet, so no run to export; start `gpu-assets up`")
        written = export_runs(platform.workspace, ended_runs(instance), lambda run_id: read_ended_run(instance, run_id))
    folder = str(export_folder(platform.workspace))
    return {"folder": folder, "written": [path.name for path in written]}, f"{len(written)} files written to {folder}"
