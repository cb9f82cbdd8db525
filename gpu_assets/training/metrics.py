"""What a training run measures while it runs, and in the end. Knows nothing of torch, and decides nothing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from gpu_assets.training.batches import Batch, Layout, padding_share
from gpu_assets.training.records import Measured
from gpu_assets.training.shapes import ModelShape

INTERVAL_S = 1.0
"""Between two points; a step that takes longer is a point of its own."""


@dataclass(frozen=True)
class Work:
    """What a step computes; `positions` are its tokens and its padding."""

    tokens: int = 0
    supervised: int = 0
    positions: float = 0
    flops: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.tokens + other.tokens,
            self.supervised + other.supervised,
            self.positions + other.positions,
            self.flops + other.flops,
        )


@dataclass(frozen=True)
class Figures:
    """An interval of steps; loss and gradient norm are its means, times are in seconds.

    `step` counts the steps of the line, `run_step` those of this run, of which there are `run_steps`.
    """

    step: int
    run_step: int
    run_steps: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens_per_s: float
    supervised_tokens_per_s: float
    mfu: float | None
    padding_share: float
    peak_memory_bytes: int
    eta_s: float


class Observer(Protocol):
    """Is given the figures of each interval, for people to look at; training does not depend on it."""

    def write(self, figures: Figures) -> None: ...

    def rewind(self, step: int) -> None:
        """Training went back: what was written of this step of the line and later ones is void."""

    def close(self) -> None: ...


class ForDisplay:
    """An observer whose files may be lost: what the disk refuses is said once, and it is left out from then on."""

    def __init__(self, observer: Observer, name: str, report: Callable[[str], None]) -> None:
        self._observer, self._name, self._report = observer, name, report
        self._is_lost = False

    def write(self, figures: Figures) -> None:
        self._try(lambda: self._observer.write(figures))

    def rewind(self, step: int) -> None:
        self._try(lambda: self._observer.rewind(step))

    def close(self) -> None:
        self._try(self._observer.close)

    def _try(self, act: Callable[[], None]) -> None:
        if self._is_lost:
            return
        try:
            act()
        except OSError as error:
            self._is_lost = True
            self._report(f"warning: {self._name} cannot be written: {error}; training goes on without it")


class PeakMemory(Protocol):
    """The most memory that this process has held so far, in bytes."""

    def __call__(self) -> int: ...


class StepWork:
    """The work of each optimizer step, counted when it is asked for."""

    def __init__(
        self,
        steps: Sequence[Sequence[Batch]],
        lengths: Sequence[int],
        supervised: Sequence[int],
        layout: Layout,
        shape: ModelShape | None,
        *,
        adapters: bool,
        pack_tokens: int,
    ) -> None:
        """Args: `shape` is None where the model's family is not known; then `flops` are 0."""
        self.steps, self._lengths, self._supervised = steps, lengths, supervised
        self._layout, self._pack_tokens = layout, pack_tokens
        self._shape, self._adapters = shape, adapters

    def of(self, place: int) -> Work:
        """The work of a step, from 0."""
        batches = self.steps[place]
        lengths = [self._lengths[index] for batch in batches for index in batch]
        supervised = sum(self._supervised[index] for batch in batches for index in batch)
        flops = self._shape.training_flops(lengths, supervised, adapters=self._adapters) if self._shape else 0.0
        share = padding_share(batches, self._lengths, self._layout, self._pack_tokens)
        positions = sum(lengths) / (1 - share)
        return Work(sum(lengths), supervised, positions, flops)


class Meter:
    """Turns steps into figures for its observers, and into those of the whole run at its end."""

    def __init__(
        self,
        work: StepWork,
        matmul_peak: float,
        peak_memory: PeakMemory,
        first_step: int,
        observers: Sequence[Observer] = (),
        interval_s: float = INTERVAL_S,
    ) -> None:
        """A meter that has seen no step.

        Args:
            matmul_peak: of all devices together, in floating-point operations a second.
            first_step: how many steps the line had before this run.
            interval_s: between two points; 0 makes every step one.
        """
        self._work, self._matmul_peak, self._peak_memory = work, matmul_peak, peak_memory
        self._first_step, self._observers, self._interval_s = first_step, observers, interval_s
        self._newest: int | None = None
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        for observer in self._observers:
            observer.close()

    def on_step(self, step: int, loss: float, gradient_norm: float, rate: float) -> None:
        """Take note of a step that is done; `step` counts those of the run, from 1."""
        if self._newest is not None and step <= self._newest:
            for observer in self._observers:
                observer.rewind(self._first_step + step)
            self._begin()
        self._newest = step
        self._losses.append(loss)
        self._norms.append(gradient_norm)
        self._done += self._work.of(step - 1)
        seconds = time.monotonic() - self._begun
        if seconds >= self._interval_s or step == len(self._work.steps):
            self._report(step, rate, max(seconds, 1e-9))

    def summary(self, norms: Sequence[float], rates: Sequence[float], seconds: float) -> Measured:
        """Of the whole run, whatever it was resumed from: all its steps' work in all the seconds that it took."""
        work = Work()
        for place in range(len(self._work.steps)):
            work += self._work.of(place)
        seconds = max(seconds, 1e-9)
        last = max(1, len(norms) // 20)
        return Measured(
            tokens_per_s=round(work.tokens / seconds, 1),
            supervised_tokens_per_s=round(work.supervised / seconds, 1),
            mfu=self._mfu(work, seconds),
            matmul_peak_flops=self._matmul_peak,
            gradient_norm=sum(norms[-last:]) / last,
            learning_rate=rates[-1],
            peak_memory_bytes=self._peak_memory(),
        )

    def _begin(self) -> None:
        self._begun = time.monotonic()
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._done = Work()

    def _report(self, step: int, rate: float, seconds: float) -> None:
        done, steps, total = self._done, len(self._losses), len(self._work.steps)
        figures = Figures(
            step=self._first_step + step,
            run_step=step,
            run_steps=total,
            loss=sum(self._losses) / steps,
            gradient_norm=sum(self._norms) / steps,
            learning_rate=rate,
            tokens_per_s=done.tokens / seconds,
            supervised_tokens_per_s=done.supervised / seconds,
            mfu=self._mfu(done, seconds),
            padding_share=1 - done.tokens / done.positions,
            peak_memory_bytes=self._peak_memory(),
            eta_s=seconds / steps * (total - step),
        )
        for observer in self._observers:
            observer.write(figures)
        self._begin()

    def _mfu(self, work: Work, seconds: float) -> float | None:
        """Model FLOPs utilization: needed operations over what the measured matrix products would have done."""
        return work.flops / seconds / self._matmul_peak if work.flops else None
