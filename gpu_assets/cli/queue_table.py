"""The queue on a terminal: a line a dataset, and below it what a person should know or do."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from gpu_assets.datasets.queue import QueueRow

STYLES = {
    "refused": "red",
    "set aside": "red",
    "broken": "red",
    "scored": "green",
    "trained": "green",
    "validated": "cyan",
    "validating": "yellow",
    "training": "yellow",
    "judging": "yellow",
}
HEADINGS = ("key", "priority", "state", "rows", "size", "age")
GAP = "  "
MIN_KEY_WIDTH = 24
"""Room for the eight digits of the content, and for some of the name on both sides of the cut."""


def queue_table(rows: Sequence[QueueRow], console: Console) -> RenderableType:
    """The rows in the console's width."""
    now = datetime.now(UTC)
    cells = [HEADINGS, *(_cells(row, now) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    room = console.width - sum(widths[1:]) - len(GAP) * (len(widths) - 1)
    widths[0] = min(widths[0], max(MIN_KEY_WIDTH, room))
    lines: list[RenderableType] = [_line(HEADINGS, widths, "bold", "bold")]
    for row, line in zip(rows, cells[1:], strict=True):
        lines.append(_line(line, widths, "", STYLES.get(row.state, "")))
        if row.sentence:
            lines.append(Padding(Text(row.sentence), (0, 0, 0, 4)))
    return Group(*lines)


def _cells(row: QueueRow, now: datetime) -> tuple[str, ...]:
    taken_in = row.taken_in_at and datetime.fromisoformat(row.taken_in_at)
    return (
        row.key,
        row.priority or "",
        row.state,
        "" if row.rows is None else str(row.rows),
        "" if row.size_bytes is None else human_size(row.size_bytes),
        human_age((now - taken_in).total_seconds()) if taken_in else "",
    )


def _line(cells: Sequence[str], widths: Sequence[int], style: str, state_style: str) -> Text:
    key, *others = cells
    padded = [shorten(key, widths[0]).ljust(widths[0])]
    padded += [cell.ljust(width) for cell, width in zip(others, widths[1:], strict=True)]
    text = Text(style=style, no_wrap=True)
    for place, cell in enumerate(padded):
        text.append(cell, state_style if HEADINGS[place] == "state" else "")
        text.append(GAP if place < len(padded) - 1 else "")
    text.rstrip()
    return text


def shorten(key: str, width: int) -> str:
    """The key in so many characters, cut in its middle: the digits of the content at its end stay."""
    if len(key) <= width:
        return key
    left = (width - 3) // 2
    return f"{key[:left]}...{key[-(width - 3 - left) :]}"


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
