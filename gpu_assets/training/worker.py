"""One of the processes of a training: `python -m gpu_assets.training.worker WORK`, which launch.py starts.

It finds its job in the work folder. The first process, which is told to stop by SIGTERM, says what there is to say and
writes the outcome; each writes what ended it. The exit code is 0 where all processes end together.
"""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from gpu_assets.errors import TrainingDiverged, TrainingStopped
from gpu_assets.training.job import Failure, Job, read_job, tell, write_failure, write_outcome
from gpu_assets.training.loop import train
from gpu_assets.training.metrics import Observer
from gpu_assets.training.observing import observers_of
from resources.workspace import Workspace

TOGETHER = (TrainingStopped, TrainingDiverged)
"""What all processes come to in the same step."""


def work_in(folder: Path) -> int:
    """Do this process's part of a job; the exit code."""
    job = read_job(folder)
    state = PartialState(cpu=job.plan.numerics.device == "cpu")
    if state.num_processes != job.plan.numerics.processes:
        raise SystemExit(f"started as one of {state.num_processes} processes, the plan is for {job.plan.numerics}")
    try:
        _train(job, is_first=state.is_main_process)
    except Exception as error:
        write_failure(folder, Failure.of(state.process_index, error))
        if isinstance(error, TOGETHER):
            return 0
        traceback.print_exc()
        return 1
    finally:
        state.destroy_process_group()
    return 0


def _train(job: Job, *, is_first: bool) -> None:
    if is_first:
        # Noted only while there are steps and while the outcome is written, which end with a resume point then; so it
        # is sent again and again.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        tell("pid", os.getpid())
    report = (lambda sentence: tell("say", sentence)) if is_first else (lambda _: None)
    observers: Sequence[Observer] = observers_of(job.plan, Workspace(job.home), report) if is_first else ()
    outcome = train(job.plan, job.work, job.parent_optimizer, report, job.min_free_bytes, observers)
    if is_first:
        write_outcome(job.work, outcome)


if __name__ == "__main__":
    sys.exit(work_in(Path(sys.argv[1])))
