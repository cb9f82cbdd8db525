from collections.abc import Sequence

import pytest

from gpu_assets.training.metrics import Figures, Meter, StepWork
from gpu_assets.training.shapes import KNOWN, ModelShape

TINY = ModelShape.of_config(KNOWN["tiny"], "tiny")
STEPS = [((0, 1),), ((2,), (3,)), ((4, 5),)]
LENGTHS = [10, 8, 20, 30, 6, 6]
SUPERVISED = [4, 4, 10, 10, 2, 2]


class Notebook:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.figures: list[Figures] = []
        self.rewound: list[int] = []
        self.closed = False

    def write(self, figures: Figures) -> None:
        self.figures.append(figures)

    def rewind(self, step: int) -> None:
        self.rewound.append(step)

    def close(self) -> None:
        self.closed = True


def make_meter(observers: Sequence[Notebook] = (), shape: ModelShape | None = TINY, interval_s: float = 0.0) -> Meter:
    work = StepWork(STEPS, LENGTHS, SUPERVISED, "padded", shape, adapters=False, pack_tokens=100)
    return Meter(work, 1e12, lambda: 123, first_step=100, observers=observers, interval_s=interval_s)


def test_every_interval_has_its_means_its_rates_and_the_step_of_the_line() -> None:
    notebook = Notebook()
    with make_meter([notebook]) as meter:
        for step, loss in enumerate((3.0, 2.0, 1.0), start=1):
            meter.on_step(step, loss, gradient_norm=0.5, rate=0.001)
    first, _, last = notebook.figures
    assert (first.step, first.run_step, first.run_steps, last.step) == (101, 1, 3, 103)
    assert [figures.loss for figures in notebook.figures] == [3.0, 2.0, 1.0]
    assert first.tokens_per_s / first.supervised_tokens_per_s == pytest.approx(18 / 8)
    assert first.padding_share == pytest.approx(2 / 20)
    assert first.mfu is not None and first.mfu > 0
    assert (first.peak_memory_bytes, last.eta_s) == (123, 0)
    assert notebook.closed


def test_steps_within_one_interval_are_one_point_and_the_last_step_always_is_one() -> None:
    notebook = Notebook()
    meter = make_meter([notebook], interval_s=1e9)
    for step, loss in enumerate((3.0, 2.0, 1.0), start=1):
        meter.on_step(step, loss, gradient_norm=0.5, rate=0.001)
    assert [(figures.run_step, figures.loss) for figures in notebook.figures] == [(3, 2.0)]


def test_going_back_tells_the_observers_which_steps_are_void() -> None:
    notebook = Notebook()
    meter = make_meter([notebook])
    for step in (1, 2, 1, 2, 3):
        meter.on_step(step, 1.0, 0.5, 0.001)
    assert notebook.rewound == [101]
    assert [figures.run_step for figures in notebook.figures] == [1, 2, 1, 2, 3]


def test_the_summary_is_of_the_whole_run_however_often_it_was_resumed() -> None:
    measured = make_meter().summary(norms=[9.0] * 19 + [1.0], rates=[0.002, 0.0002], seconds=2.0)
    assert measured.tokens_per_s == sum(LENGTHS) / 2
    assert measured.supervised_tokens_per_s == sum(SUPERVISED) / 2
    assert measured.mfu == pytest.approx(TINY.training_flops(LENGTHS, sum(SUPERVISED)) / 2 / 1e12)
    assert (measured.gradient_norm, measured.learning_rate, measured.peak_memory_bytes) == (1.0, 0.0002, 123)


def test_a_model_of_an_unknown_family_has_no_utilization() -> None:
    assert make_meter(shape=None).summary([1.0], [0.1], 1.0).mfu is None
