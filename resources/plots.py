"""Pictures for asset metadata: small PNGs, inline in Markdown, drawn without a display."""

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW_POINTS = 30


def markdown_picture(figure: "Figure", alt: str) -> str:
    """The figure as Markdown with the PNG inline, so that it lives in the event itself."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80, bbox_inches="tight")
    return f"![{alt}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"


def training_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> "Figure":
    """Each named curve over the steps of the line, one under the other; the first, which people look at, is largest."""
    heights = [2.0] + [1.0] * (len(curves) - 1)
    figure = _new_figure(5, 0.4 + 0.9 * sum(heights))
    panels = figure.subplots(len(curves), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        axes.plot([step for step, _ in points], [value for _, value in points], linewidth=1.2)
        axes.set_ylabel(name.replace(" ", "\n"))
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("step of the line")
    figure.align_ylabels()
    return figure


def histogram(values: Sequence[float], label: str) -> "Figure":
    """How many rows have how much of something."""
    figure = _new_figure(5, 2.2)
    axes = figure.subplots()
    axes.hist(values, bins=min(40, max(1, len(set(values)))))
    axes.set_xlabel(label)
    axes.set_ylabel("rows")
    axes.grid(alpha=0.3)
    return figure


def score_intervals(names: Sequence[str], accuracies: Sequence[tuple[float, float, float]]) -> "Figure":
    """Accuracy and its interval (low, accuracy, high), a line a checkpoint, the first on top."""
    figure = _new_figure(5, 0.8 + 0.35 * len(names))
    axes = figure.subplots()
    for place, (low, accuracy, high) in enumerate(accuracies):
        axes.plot([low, high], [place, place], color="tab:blue", linewidth=2)
        axes.plot(accuracy, place, "o", color="tab:blue")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("held-out accuracy, 95 % interval")
    axes.grid(alpha=0.3)
    return figure


def shares_over_time(series: Mapping[str, Sequence[tuple[datetime, float]]], limit: float, label: str) -> "Figure":
    """Shares as they became, a line a name, in percent, times in UTC; the limit is dashed."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure = _new_figure(6, 2.8)
    axes = figure.subplots()
    for name, points in series.items():
        times, shares = [at for at, _ in points], [100 * share for _, share in points]
        marker = "." if len(points) <= FEW_POINTS else ""
        axes.plot(times, shares, drawstyle="steps-post", marker=marker, linewidth=1.2, label=name)  # type: ignore[arg-type]  # takes datetimes too
    axes.axhline(100 * limit, color="tab:red", linestyle="--", linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(label)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.grid(alpha=0.3)
    if series:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _new_figure(width: float, height: float) -> "Figure":
    """An empty figure of inches; matplotlib is imported here, not by every process that loads the definitions."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))
