"""Training held and let go through a home's Dagster instance: its pool, its runs, and the record of what was asked.

Imports Dagster; loaded inside the commands that need it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dagster as dg

from gpu_assets.base_model.present import present_weights
from gpu_assets.cli.queue_facts import JOB_OF_STAGE
from gpu_assets.datasets.records import DATASETS_PARTITIONS, find_dataset, write_skip
from gpu_assets.errors import SettingsError
from gpu_assets.training.control import CONTROL_TAG, GOES_ON, REASON_TAG, Action, State
from resources.local_runs import LAUNCHED_TAG, interrupt, is_left_behind
from resources.platform import Platform
from resources.routing import Routing
from sensors.control import (
    is_training,
    last_asked,
    pool_limit,
    record_asked,
    what_holds_training,
    what_the_disk_lacks,
)
from sensors.runs import OPEN, covered
from sensors.training import Trained, trained_keys

TRAIN_JOB = JOB_OF_STAGE["training"]
STARTING = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)
START_S = 30.0
"""How long a run that starts is waited for: one that is interrupted before it has started ends as failed."""
WAIT_S = 90.0
"""More than dagster.yaml's cancel_timeout_seconds, after which a run counts as canceled, whatever it still writes."""
POLL_S = 0.2


@dataclass(frozen=True)
class ControlledRun:
    """A training run as the commands show it."""

    id: str
    status: str
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """How training stands: `sentence` says it to a person; `limit` is the pool's, None where none was set."""

    state: State
    sentence: str
    pool: str
    limit: int | None
    runs: tuple[ControlledRun, ...]


@dataclass(frozen=True)
class Done:
    """What a command did; where `found` is false there was nothing to do it to."""

    action: Action
    sentence: str
    found: bool = True
    runs: tuple[ControlledRun, ...] = ()
    datasets: tuple[str, ...] = ()


class Control:
    """The commands, on one platform's instance."""

    def __init__(self, platform: Platform, instance: dg.DagsterInstance) -> None:
        self._platform, self._instance = platform, instance
        self._pool = Routing(platform.settings.hosts).gpu_pool("trainer")

    def status(self) -> Status:
        """How training stands now."""
        limit, runs = pool_limit(self._instance, self._pool), self._open_runs()
        shown = tuple(self._show(run) for run in runs)
        hold = what_holds_training(self._instance, TRAIN_JOB, self._pool)
        if runs:
            state, doing = _doing(runs[0])
            datasets = ", ".join(shown[0].datasets)
            sentence = f"the run {runs[0].run_id[:8]} {doing} {datasets}" + (f"; {hold.sentence}" if hold else "")
            return Status(state, sentence, self._pool, limit, shown)
        full_disk = what_the_disk_lacks(self._instance, TRAIN_JOB, self._platform)
        if hold is not None:
            sentence = f"{hold.sentence}; {full_disk}" if full_disk else hold.sentence
            return Status(hold.state, sentence, self._pool, limit, ())
        if full_disk is not None:
            return Status("disk full", full_disk, self._pool, limit, ())
        return Status("idle", "no training run is queued or running, and nothing holds training", self._pool, limit, ())

    def pause(self, reason: str) -> Done:
        """Take the pool's slots away and end what trains."""
        was = last_asked(self._instance) if pool_limit(self._instance, self._pool) == 0 else None
        self._instance.event_log_storage.set_concurrency_slots(self._pool, 0)
        if was is None or was.action != "pause" or reason:
            record_asked(self._instance, "pause", reason, self._ids())
        ended = self._end(lambda run: True, "pause", reason)
        return Done("pause", f"training is paused{self._sentence(ended)}; {GOES_ON}", runs=ended)

    def resume(self, reason: str) -> Done:
        """Give the pool its slot back; the training sensor starts the run."""
        hold = what_holds_training(self._instance, TRAIN_JOB, self._pool)
        if hold is None:
            full_disk = what_the_disk_lacks(self._instance, TRAIN_JOB, self._platform)
            why = full_disk or "nothing holds training; `gpu-assets queue list` shows what waits"
            return Done("resume", why, found=False)
        if hold.state == "paused":
            self._instance.event_log_storage.set_concurrency_slots(self._pool, 1)
        record_asked(self._instance, "resume", reason)
        return Done("resume", "training goes on: the next tick of the training sensor starts a run over what waits")

    def stop(self, reason: str) -> Done:
        """End what trains; it goes on when somebody resumes or something new waits."""
        if not self._open_runs():
            sentence = "no training run is queued or running; `gpu-assets control pause` keeps the next from starting"
            return Done("stop", sentence, found=False)
        record_asked(self._instance, "stop", reason, self._ids())
        ended = self._end(lambda run: True, "stop", reason)
        return Done("stop", f"training is stopped{self._sentence(ended)}; {GOES_ON}", runs=ended)

    def skip(self, keys: Sequence[str], reason: str) -> Done:
        """Set datasets aside, those in training where none is named, and end the runs that train on them.

        Raises:
            SettingsError: if no dataset has a key, or it was trained.
        """
        chosen = list(keys) or [key for run in self._open_runs() for key in self._datasets_of(run)]
        if not chosen:
            return Done("skip", "nothing trains; name the dataset: `gpu-assets control skip KEY`", found=False)
        weights = present_weights(self._platform.settings, self._platform.workspace)
        trained = Trained().in_line(self._instance, weights)
        datasets = [find_dataset(self._platform.workspace, key) for key in chosen]
        for dataset in datasets:
            if dataset.key in trained:
                raise SettingsError(f"{dataset.key} was trained already; there is nothing to skip")
        for dataset in datasets:
            write_skip(dataset.folder, reason)
        record_asked(self._instance, "skip", reason, self._ids(), chosen)
        ended = self._end(lambda run: not set(chosen).isdisjoint(self._datasets_of(run)), "skip", reason)
        sentence = f"set aside: {', '.join(chosen)}{self._sentence(ended)}; `gpu-assets queue retry KEY` takes it back"
        return Done("skip", sentence, runs=ended, datasets=tuple(chosen))

    def _end(self, wanted: Callable[[dg.DagsterRun], bool], action: Action, reason: str) -> tuple[ControlledRun, ...]:
        """Ask the wanted open runs to end, those that appear meanwhile too, and wait for them."""
        asked: list[str] = []
        started_by = time.monotonic() + START_S
        deadline = started_by + WAIT_S
        while (runs := [run for run in self._open_runs() if wanted(run)]) and time.monotonic() < deadline:
            for run in runs:
                may_start = run.status in STARTING and time.monotonic() < started_by
                if run.run_id not in asked and not may_start:
                    asked.append(run.run_id)
                    self._ask_to_end(run, action, reason)
            time.sleep(POLL_S)
        found = [self._instance.get_run_by_id(run_id) for run_id in asked]
        return tuple(self._show(run) for run in found if run is not None)

    def _sentence(self, runs: Sequence[ControlledRun]) -> str:
        """How the runs ended, as part of a sentence; a run that went through meanwhile says so itself."""
        return "".join(f"; the run {run.id[:8]} is {run.status}{self._before_it_began(run)}" for run in runs)

    def _before_it_began(self, run: ControlledRun) -> str:
        began = self._instance.get_run_stats(run.id).start_time is not None
        return "" if began else ", ended before training began, so that nothing of it is lost"

    def _ask_to_end(self, run: dg.DagsterRun, action: Action, reason: str) -> None:
        self._instance.add_run_tags(run.run_id, {CONTROL_TAG: action} | ({REASON_TAG: reason} if reason else {}))
        if run.status == dg.DagsterRunStatus.CANCELING:
            return
        try:
            if run.status == dg.DagsterRunStatus.QUEUED or LAUNCHED_TAG in run.tags:
                self._instance.run_coordinator.cancel_run(run.run_id)
            else:
                self._instance.report_run_canceling(run)
                interrupt(self._instance, run)
        except dg.DagsterError as error:
            raise SettingsError(
                f"the run {run.run_id[:8]} cannot be told to end ({error}); is the platform up? `gpu-assets up` closes "
                "runs whose process is gone"
            ) from None

    def _open_runs(self) -> list[dg.DagsterRun]:
        """Queued and running training runs, the newest first; none whose process is gone."""
        runs = self._instance.get_runs(dg.RunsFilter(statuses=list(OPEN)))
        return [run for run in runs if is_training(run, TRAIN_JOB) and not is_left_behind(self._instance, run)]

    def _ids(self) -> list[str]:
        return [run.run_id for run in self._open_runs()]

    def _datasets_of(self, run: dg.DagsterRun) -> Sequence[str]:
        return trained_keys(run) or covered(run.tags, self._instance.get_dynamic_partitions(DATASETS_PARTITIONS))

    def _show(self, run: dg.DagsterRun) -> ControlledRun:
        return ControlledRun(run.run_id, run.status.value, tuple(self._datasets_of(run)))


def _doing(run: dg.DagsterRun) -> tuple[State, str]:
    if run.status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED):
        return "queued", "waits to train on"
    if run.status == dg.DagsterRunStatus.CANCELING:
        return "ending", "ends; it trained on"
    return "training", "trains on"
