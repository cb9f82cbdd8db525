"""Plots are drawn whatever the span: a demo lasts seconds, a line months."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from resources.plots import markdown_picture, shares_over_time, training_curves

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("seconds", [0, 0.3, 59, 7_200, 864_000, 100_000_000])
@pytest.mark.parametrize("points", [0, 1, 50])
def test_shares_are_drawn_over_any_span(seconds: float, points: int) -> None:
    series = {"a@1": [(BEGIN + timedelta(seconds=seconds * n / 50), 0.08) for n in range(points)]}

    picture = markdown_picture(shares_over_time(series, 0.05, "rows lost, %"), "shares")

    assert picture.startswith("![shares](data:image/png;base64,")


@pytest.mark.parametrize("points", [1, 2, 200])
@pytest.mark.parametrize("names", [("loss",), ("loss", "gradient norm", "learning rate")])
def test_curves_of_a_training_are_drawn_however_many_there_are(points: int, names: tuple[str, ...]) -> None:
    figure = training_curves({name: [(step, 1 / step) for step in range(1, points + 1)] for name in names})

    assert [axes.get_ylabel().replace("\n", " ") for axes in figure.axes] == list(names)
    assert markdown_picture(figure, "training").startswith("![training](data:image/png;base64,")


def test_the_names_of_curves_do_not_overlap() -> None:
    names = ("loss", "gradient norm", "learning rate")
    figure = training_curves({name: [(step, 1 / step) for step in range(1, 9)] for name in names})
    FigureCanvasAgg(figure).draw()

    labels = [axes.yaxis.label.get_window_extent() for axes in figure.axes]
    assert [upper.y0 > lower.y1 for upper, lower in pairwise(labels)] == [True, True]
