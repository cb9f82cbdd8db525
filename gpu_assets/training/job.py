"""What goes between a training run and the processes that it starts: files in the plan's work folder. No torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gpu_assets import errors
from gpu_assets.errors import PlatformError
from gpu_assets.training.records import TrainingOutcome, TrainingPlan

JOB_FILE = "job.json"
OUTCOME_FILE = "outcome.json"
FAILURE_FILE = "failure-{rank}.json"


@dataclass(frozen=True)
class Job:
    """What `loop.train` is asked to do, and the home whose event files and heartbeat it writes."""

    plan: TrainingPlan
    work: Path
    parent_optimizer: Path | None
    min_free_bytes: int
    home: Path


@dataclass(frozen=True)
class Failure:
    """What ended a process: an error's type, message, and what else it holds."""

    rank: int
    type: str
    message: str
    facts: dict[str, Any]

    @classmethod
    def of(cls, rank: int, error: BaseException) -> "Failure":
        facts = {name: value for name, value in vars(error).items() if isinstance(value, str | int)}
        return cls(rank, type(error).__name__, str(error), facts)

    @property
    def error(self) -> PlatformError | None:
        """The error that it was, or None if it was none that is meant for a person."""
        kind = getattr(errors, self.type, None)
        if not isinstance(kind, type) or not issubclass(kind, PlatformError):
            return None
        error: PlatformError = kind(self.message, **self.facts)
        return error


_JOB, _OUTCOME, _FAILURE = TypeAdapter(Job), TypeAdapter(TrainingOutcome), TypeAdapter(Failure)


def write_job(job: Job) -> None:
    """Write the job, and remove what an earlier start left of its end."""
    for left in (job.work / OUTCOME_FILE, *job.work.glob(FAILURE_FILE.format(rank="*"))):
        left.unlink(missing_ok=True)
    (job.work / JOB_FILE).write_bytes(_JOB.dump_json(job))


def read_job(work: Path) -> Job:
    return _JOB.validate_json((work / JOB_FILE).read_bytes())


def write_outcome(work: Path, outcome: TrainingOutcome) -> None:
    (work / OUTCOME_FILE).write_bytes(_OUTCOME.dump_json(outcome))


def read_outcome(work: Path) -> TrainingOutcome:
    return _OUTCOME.validate_json((work / OUTCOME_FILE).read_bytes())


def write_failure(work: Path, failure: Failure) -> None:
    (work / FAILURE_FILE.format(rank=failure.rank)).write_bytes(_FAILURE.dump_json(failure))


def read_failures(work: Path) -> list[Failure]:
    """Of all processes that wrote one, in their order."""
    found = [_FAILURE.validate_json(path.read_bytes()) for path in work.glob(FAILURE_FILE.format(rank="*"))]
    return sorted(found, key=lambda failure: failure.rank)


def told(line: str) -> tuple[str, Any] | None:
    """What a process told the run on a line of its standard output: `pid` or `say`, and its value."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    if not isinstance(message, dict) or len(message) != 1:
        return None
    ((name, value),) = message.items()
    return (name, value) if name in ("pid", "say") else None


def tell(name: str, value: object) -> None:
    """Write such a line."""
    print(json.dumps({name: value}), flush=True)
