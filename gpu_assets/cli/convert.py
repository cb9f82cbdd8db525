"""`gpu-assets convert`: rows of the platform's schemas from the files that people have."""

import codecs
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from gpu_assets.cli.failures import or_exit
from gpu_assets.cli.options import LOG_WIDTH
from gpu_assets.cli.replacing import is_same_file, replacing
from gpu_assets.datasets.names import DATA_SUFFIX, SIDECAR_SUFFIX, display
from gpu_assets.errors import DatasetInvalid, SettingsError
from gpu_assets.settings import load_settings
from validators.convert import ALPACA, SHAREGPT, Converter, Shape, choose_shape
from validators.lines import Line, LineReader, foreign_format
from validators.quoting import printable
from validators.report import Rule, Tally
from validators.rows import Rejection
from validators.sidecar import MANUAL

MAX_ARRAY_BYTES = 512 * 2**20
"""A JSON array is read whole."""
MAX_BLANK_BYTES = 4096
"""So far from the beginning of a file an array's bracket is looked for."""
_PARQUET = b"PAR1"
_PARQUET_ROWS = 1000


class Format(StrEnum):
    """What can be converted."""

    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    PARQUET = "parquet"


@dataclass
class Counts:
    """What one conversion did; `skipped` counts rows by the rule that they break."""

    converted: int = 0
    skipped: Tally = field(default_factory=Tally)

    @property
    def rows(self) -> int:
        return self.converted + sum(self.skipped.counts.values())


@or_exit
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="JSONL or a JSON array, also .gz and .zst; or Parquet.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .jsonl file to write; OUT.meta.json goes with it.")],
    format_: Annotated[Format, typer.Option("--from", help="What IN is.", case_sensitive=False)],
) -> None:
    """Turn rows into chat rows: exit 0 all converted, 1 some skipped, 2 unreadable."""
    source, out = source.expanduser(), out.expanduser()
    _check_names(source, out)
    max_row_bytes = load_settings().validation.max_row_bytes
    if format_ is Format.PARQUET:
        shape, rows = choose_shape(_parquet_columns(source)), _parquet_rows(source)
    else:
        shape, rows = ALPACA if format_ is Format.ALPACA else SHAREGPT, _json_rows(source, max_row_bytes)
    counts = convert_rows(rows, Converter(shape, max_row_bytes), out, _sidecar(source, format_, shape))
    if not counts.rows:
        raise DatasetInvalid(f"{source} holds no rows")
    _print_counts(counts, out, shape)
    raise typer.Exit(1 if counts.skipped.counts else 0)


def convert_rows(rows: Iterator[Line], converter: Converter, out: Path, sidecar: dict[str, Any]) -> Counts:
    """Write what can be converted, with its sidecar; nothing is written where no row can be.

    Raises:
        DatasetInvalid: if the rows cannot be read to their end; then nothing is written.
        SettingsError: if `out` cannot be written.
    """
    counts = Counts()
    with replacing(out.with_name(out.name + SIDECAR_SUFFIX), out) as replacement:
        sidecar_file, out_file = replacement.files
        for row in rows:
            try:
                out_file.write(converter.convert(row) + b"\n")
                counts.converted += 1
            except Rejection as rejection:
                counts.skipped.add(rejection.rule, row.number, rejection.detail)
        if counts.converted:
            described = {**sidecar, "example_count": counts.converted}
            sidecar_file.write(msgspec.json.format(msgspec.json.encode(described)) + b"\n")
            replacement.publish()
    return counts


def _check_names(source: Path, out: Path) -> None:
    if out.suffix != DATA_SUFFIX:
        raise SettingsError(f"{out} does not end in {DATA_SUFFIX}, which the inbox takes; name the file to write so")
    for path in (out, out.with_name(out.name + SIDECAR_SUFFIX)):
        if is_same_file(path, source):
            raise SettingsError(f"{path} is what is to be converted; name another file to write")


def _sidecar(source: Path, format_: Format, shape: Shape) -> dict[str, Any]:
    return {
        "generator_id": MANUAL,
        "schema_id": shape.schema_id,
        "source": display(source.name),
        "params": {"converted_from": format_.value, "rows": shape.name},
    }


def _json_rows(path: Path, max_row_bytes: int) -> Iterator[Line]:
    """The lines of a JSONL file with a line number, or the elements of a JSON array with their place, from 1.

    Raises:
        DatasetInvalid: if the file cannot be read, is no text, or begins like an array and is none.
    """
    with LineReader(path) as reader:
        head = reader.head()
        if name := foreign_format(head):
            hint = "use --from parquet" if head.startswith(_PARQUET) else "wanted JSON lines or a JSON array"
            raise DatasetInvalid(f"{path} looks like {name}; {hint}")
        if reader.head(MAX_BLANK_BYTES).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            yield from _array_rows(path, reader)
            return
        for line in reader.lines(max_row_bytes):
            if line.data.strip():
                yield line._replace(data=line.data.removeprefix(codecs.BOM_UTF8)) if line.number == 1 else line


def _array_rows(path: Path, reader: LineReader) -> Iterator[Line]:
    data = bytearray()
    for chunk in reader.chunks(MAX_ARRAY_BYTES):
        data += chunk.data
        if len(data) > MAX_ARRAY_BYTES:
            raise DatasetInvalid(
                f"{path} is a JSON array of over {MAX_ARRAY_BYTES // 2**20} MiB, which would be read whole; "
                "write it as JSON lines, one object a line"
            )
    try:
        elements = msgspec.json.decode(bytes(data).removeprefix(codecs.BOM_UTF8), type=list[msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DatasetInvalid(f"{path} begins like a JSON array and is none: {error}") from None
    for number, element in enumerate(elements, 1):
        yield Line(number, content := bytes(element), len(content))


def _parquet_columns(path: Path) -> list[str]:
    """Names of the columns.

    Raises:
        DatasetInvalid: if the file cannot be read or is no Parquet.
    """
    import polars as pl

    with LineReader(path) as reader:
        if not reader.head().startswith(_PARQUET):
            raise DatasetInvalid(f"{path} is no Parquet file; use --from alpaca or --from sharegpt for JSON")
    try:
        return pl.scan_parquet(path, glob=False).collect_schema().names()
    except pl.exceptions.PolarsError as error:
        raise DatasetInvalid(f"{path} is not a whole Parquet file: {error}") from None


def _parquet_rows(path: Path) -> Iterator[Line]:
    """Every row as a JSON object, with its number, from 1."""
    import polars as pl

    number = 0
    try:
        for batch in pl.scan_parquet(path, glob=False).collect_batches(chunk_size=_PARQUET_ROWS, maintain_order=True):
            for row in batch.iter_rows(named=True):
                number += 1
                yield Line(number, data := msgspec.json.encode(row), len(data))
    except pl.exceptions.PolarsError as error:
        raise DatasetInvalid(f"{path} cannot be read beyond row {number:,}: {error}") from None


def _print_counts(counts: Counts, out: Path, shape: Shape) -> None:
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    sentence = f"{counts.converted:,} of {counts.rows:,} rows converted to {shape.schema_id}"
    where = display(str(out)) if counts.converted else "nothing is written"
    console.print(Text(f"{sentence}: {where}"), soft_wrap=True)
    if counts.skipped.counts:
        console.print(_skipped_table(counts.skipped))


def _skipped_table(skipped: Tally) -> Table:
    table = Table(
        "skipped",
        Column("count", justify="right"),
        "rows",
        Column("seen first", overflow="fold"),
        box=None,
        pad_edge=False,
    )
    for rule in Rule:
        if count := skipped.count(rule):
            examples = skipped.examples[rule]
            numbers = ", ".join(f"{example.line:,}" for example in examples)
            more = ", ..." if count > len(examples) else ""
            table.add_row(rule, f"{count:,}", numbers + more, Text(printable(examples[0].seen)))
    return table
