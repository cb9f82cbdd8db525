"""`gpu-assets validate`: both gates on any file, with no Dagster instance and no torch.

The verdict is the platform's: its settings, its reserved problems, and at level DEEP its history of
accepted rows and its evaluation sets where the home has them. They are only read.
"""

import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tokenizers import Tokenizer

from gpu_assets.cli.failures import or_exit
from gpu_assets.cli.fixing import fixing, plan_outputs
from gpu_assets.cli.renderers import configured_renderer, named_renderer
from gpu_assets.cli.sources import Source, find_sources
from gpu_assets.cli.verdicts import FileVerdict, print_verdicts, to_json
from gpu_assets.datasets.names import SIDECAR_SUFFIX, display
from gpu_assets.datasets.reserved import RESERVED
from gpu_assets.errors import DatasetInvalid, SettingsError
from gpu_assets.rendering import Renderer
from gpu_assets.settings import Settings, Validation, load_settings
from resources.workspace import Workspace
from validators import (
    DATASET_SPECS,
    DatasetSpec,
    DataValidator,
    Level,
    Limits,
    Report,
    Sidecar,
    SpecValidator,
    check_generator,
    read_columns,
    read_sidecar,
)
from validators.lines import COMPRESSED_SUFFIXES, Chunk, LineReader, Unreadable
from validators.quoting import quote
from validators.report import RejectedRow
from validators.sinks import LineSink

if TYPE_CHECKING:
    from gpu_assets.cli.known import Known

PROGRESS_FROM_BYTES = 20 * 2**20
NAME_WIDTH = 30
"""Characters of a file's name beside its progress bar."""


@or_exit
def validate(
    files: Annotated[
        list[str], typer.Argument(help="JSONL files, also .jsonl.gz and .jsonl.zst; globs; - for standard input.")
    ],
    level: Annotated[Level, typer.Option(help="How deep to look.", case_sensitive=False)] = Level.STANDARD,
    schema: Annotated[
        str | None, typer.Option(metavar="ID", help="Schema of all files; else the sidecar's, else by columns.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Model folder; else the configured model, else preset:tiny.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    fix_out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the accepted lines and the rejected ones here.")
    ] = None,
) -> None:
    """Check training files: exit 0 all valid, 1 some not valid, 2 some unreadable."""
    settings = load_settings()
    spec = _named_spec(schema)
    renderer = _renderer(tokenizer, settings, level)
    with ExitStack() as stack:
        known = _open_known(settings, level, stack)
        limits = Limits(settings.validation, settings.hyperparams.max_length)
        content = DataValidator(renderer, limits, RESERVED, known.evaluation if known is not None else None)
        gates = Gates(content, level, spec, settings.validation, known)
        sources = find_sources(files, stack)
        outputs = plan_outputs(fix_out.expanduser(), sources) if fix_out is not None else {}
        verdicts = [_look(source, gates, outputs.get(source)) for source in sources]
    if as_json:
        typer.echo(json.dumps({"files": [to_json(verdict) for verdict in verdicts]}, indent=2))
    else:
        print_verdicts(verdicts)
    raise typer.Exit(exit_code(verdicts))


@dataclass(frozen=True)
class Gates:
    """What all files of one command are held to; `known` is None below level DEEP."""

    content: DataValidator
    level: Level
    spec: DatasetSpec | None
    thresholds: Validation
    known: "Known | None"


def exit_code(verdicts: Sequence[FileVerdict]) -> int:
    """2 if a file is unreadable, else 1 if one is not valid, else 0."""
    return max((0 if verdict.valid else 1 if verdict.readable else 2 for verdict in verdicts), default=0)


def _named_spec(schema: str | None) -> DatasetSpec | None:
    if schema is not None and schema not in DATASET_SPECS:
        raise SettingsError(f"--schema {quote(schema)} is unknown; known schemas: {', '.join(DATASET_SPECS)}")
    return None if schema is None else DATASET_SPECS[schema]


def _renderer(named: Path | None, settings: Settings, level: Level) -> Renderer | Tokenizer:
    if named is not None:
        return named_renderer(named.expanduser(), settings, level)
    renderer, note = configured_renderer(settings)
    if note is not None and level is not Level.QUICK:
        typer.echo(f"gpu-assets: {note}", err=True)
    return renderer


def _open_known(settings: Settings, level: Level, stack: ExitStack) -> "Known | None":
    if level is not Level.DEEP:
        return None
    from gpu_assets.cli.known import Known

    return Known.open(Workspace(settings.home), settings.validation, stack)


def _look(source: Source, gates: Gates, fixed: Path | None) -> FileVerdict:
    name = display(source.name)
    if source.error is not None:
        return FileVerdict(name, error=display(source.error), readable=False)
    try:
        report = _validate(source, gates, fixed)
    except DatasetInvalid as error:
        return FileVerdict(name, error=source.explain(error), readable=not isinstance(error, Unreadable))
    return FileVerdict(name, replace(report, path=name))


def _validate(source: Source, gates: Gates, fixed: Path | None) -> Report:
    path, spec = source.path, gates.spec
    with LineReader(path):
        sidecar = _read_sidecar(None if source.is_stdin else _sidecar_beside(path), gates.thresholds)
    if spec is None:
        spec = SpecValidator().choose(sidecar.schema_id, read_columns(path, gates.thresholds.max_row_bytes)).spec
    with ExitStack() as stack:
        sinks: list[LineSink] = []
        if fixed is not None:
            sinks.append(stack.enter_context(fixing(fixed)))
        if _is_long(path) and sys.stderr.isatty():
            sinks.append(stack.enter_context(_progress_bar(source)))
        return gates.content.validate_file(
            path,
            spec,
            gates.level,
            generator_id=sidecar.generator_id,
            duplicates=None if gates.known is None else gates.known.finder(path),
            line_sink=_AllSinks(sinks) if sinks else None,
        )


def _read_sidecar(path: Path | None, thresholds: Validation) -> Sidecar:
    name = "" if path is None else path.name
    return check_generator(read_sidecar(path), name, allow_unregistered=thresholds.allow_unregistered_generators)


def _sidecar_beside(path: Path) -> Path | None:
    sidecar = path.with_name(path.name + SIDECAR_SUFFIX)
    return sidecar if os.path.lexists(sidecar) else None  # a name can be too long to have one


def _is_long(path: Path) -> bool:
    try:
        return path.stat().st_size > PROGRESS_FROM_BYTES
    except OSError:
        return False


@dataclass(frozen=True)
class _AllSinks:
    sinks: Sequence[LineSink]

    def take(self, chunk: Chunk, left_out: Collection[int], rejected: Sequence[RejectedRow]) -> None:
        for sink in self.sinks:
            sink.take(chunk, left_out, rejected)


@contextmanager
def _progress_bar(source: Source) -> Iterator[LineSink]:
    """Bytes read, on standard error; of a compressed file it is not known how many there will be."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    compressed = source.path.suffix in COMPRESSED_SUFFIXES
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        total = None if compressed else source.path.stat().st_size
        task = progress.add_task(display(Path(source.name).name)[:NAME_WIDTH], total=total)

        class Advance:
            def take(self, chunk: Chunk, left_out: Collection[int], rejected: Sequence[RejectedRow]) -> None:
                progress.advance(task, len(chunk.data) + chunk.skipped)

        yield Advance()
