"""Lineage on a terminal.

Imports polars with what it shows; loaded inside the command.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpu_assets.lineage.ledger import Ledger
from gpu_assets.lineage.records import Entry, percent
from gpu_assets.lineage.rows import Place
from gpu_assets.lineage.trace import Ancestor, ModelRows, RowTrace, SeenBy, TrainedOn

RANGES_SHOWN = 3
SINCE = {
    "replaced": "validated again since, with other rows; these are kept",
    "withdrawn": "withdrawn since: a gate refused it when it was validated again",
}
NUMBERS = frozenset({"validations", "failed", "rows", "lost", "lost %"})


def ledger_table(ledger: Ledger) -> RenderableType:
    """Generators with the rules that their rows broke, validators, and the worst offenders by name."""
    if not ledger.validations:
        return Text("nothing was validated yet; `gpu-assets queue add FILE` drops a file")
    generators = _most_lost_first(ledger.generators.values())
    offenders = ledger.worst_offenders
    names = ", ".join(_offender(entry) for entry in offenders)
    return Group(
        _entries("generator", generators, {entry.id for entry in offenders}),
        *(Text(f"{entry.id}: {_rules(entry)}") for entry in generators if entry.rows.top_rules),
        Text(),
        _entries("validator", _most_lost_first(ledger.validators.values())),
        Text(),
        Text(
            f"{ledger.validations:,} validations, {ledger.failed:,} failed; worst offenders: {names or 'none'}",
            "red" if offenders else "",
        ),
    )


def model_table(model: ModelRows) -> RenderableType:
    """The descent, newest first, with what each checkpoint was trained on."""
    parts: list[RenderableType] = [
        Text(f"{model.checkpoint}, weights {model.weights_sha256[:8]}: {model.rows:,} rows", "bold")
    ]
    for ancestor in model.descent:
        parts += [Text(f"{ancestor.checkpoint} (step {ancestor.step}), from {ancestor.parent}"), _datasets(ancestor)]
        parts += [Text(f"  {found.key}: {found.fault}", "red") for found in ancestor.datasets if found.fault]
        parts += [Text(f"  {found.key}: {SINCE[found.since]}", "red") for found in ancestor.datasets if found.since]
        parts += [Text(f"  replayed: {found.rows:,} rows of {found.key}") for found in ancestor.replayed]
    if model.fault is not None:
        parts.append(Text(model.fault, "red"))
    return Group(*parts)


def row_lines(trace: RowTrace) -> RenderableType:
    """The row, where it lies, and who saw it."""
    row = trace.row
    lines = [Text(f"row {row.row_sha256}" if row.row_sha256 else "no row", "bold")]
    lines += [Text(text) for text in _accepted(row.accepted)]
    lines += [
        Text(f"rejected: {found.dataset} line {found.line}, by {found.rule}: {found.detail}", "red")
        for found in row.rejected
    ]
    if row.note is not None:
        lines.append(Text(row.note, "red"))
    lines += [Text(_seen(seen), "green" if seen.deployed else "") for seen in trace.checkpoints]
    if not trace.checkpoints:
        lines.append(Text("no checkpoint saw it"))
    else:
        perhaps = any(seen.deployed and seen.doubt for seen in trace.checkpoints)
        lines.append(Text(f"deployed: {trace.deployed or 'none of them'}{', perhaps' if perhaps else ''}"))
    return Group(*lines)


def _most_lost_first(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (-entry.lost_share, entry.id))


def _offender(entry: Entry) -> str:
    refused = f", {entry.datasets_refused:,} of {entry.datasets:,} datasets refused" if entry.datasets_refused else ""
    return f"{entry.id} ({entry.rows.lost_share:.1%} of its rows lost{refused})"


def _rules(entry: Entry) -> str:
    return ", ".join(f"{rule} {count:,}" for rule, count in entry.rows.top_rules.items())


def _entries(what: str, entries: Iterable[Entry], offenders: AbstractSet[str] = frozenset()) -> Table:
    table = _table(what, "validations", "failed", "rows", "lost", "lost %", "last seen")
    for entry in entries:
        table.add_row(
            Text(entry.id),
            f"{entry.verdicts.total:,}",
            f"{entry.verdicts.failed:,}",
            f"{entry.rows.total:,}",
            f"{entry.rows.lost:,}",
            f"{percent(entry.rows.lost, entry.rows.total):.2f}",
            entry.last_seen[: len("2026-01-01")],
            style="red" if entry.id in offenders else None,
        )
    return table


def _datasets(ancestor: Ancestor) -> Table:
    table = _table("dataset", "rows", "lines", "file sha256", "generator")
    for found in ancestor.datasets:
        sha256 = "" if found.file_sha256 is None else found.file_sha256[:8]
        table.add_row(Text(found.key), f"{found.rows:,}", lines_text(found), sha256, Text(found.generator or ""))
    return table


def lines_text(found: TrainedOn) -> str:
    """`1-40, 42-90`, or the first ranges and how many more there are."""
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in found.lines[:RANGES_SHOWN]]
    more = len(found.lines) - len(shown)
    return ", ".join(shown) + (f" and {more} more ranges" if more else "")


def _accepted(places: Iterable[Place]) -> Iterator[str]:
    """A line a place; of a dataset's line where it stands, else where it stood."""
    newest: dict[tuple[str, int], Place] = {}
    for place in places:
        known = newest.setdefault((place.dataset, place.line), place)
        if known.since is not None and place.since is None:
            newest[place.dataset, place.line] = place
    for place in newest.values():
        yield f"accepted: {place.dataset} line {place.line}{f', {place.since} since' if place.since else ''}"


def _seen(seen: SeenBy) -> str:
    deployed = ", deployed" if seen.deployed else ""
    if not seen.datasets:
        return f"{seen.checkpoint} perhaps saw it by descent: {seen.doubt}{deployed}"
    how = {
        "trained": "was trained on it",
        "replayed": "was trained on it again",
        "descent": f"descends from {seen.through}, which was trained on it",
    }[seen.how]
    datasets = ", ".join(seen.datasets)
    if seen.doubt is not None:
        return f"{seen.checkpoint} perhaps {how} ({datasets}: {seen.doubt}){deployed}"
    return f"{seen.checkpoint} {how} ({datasets}){deployed}"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in NUMBERS else "left", overflow="fold")
    return table
