"""What a person asked of training, and what follows from it: decisions and sentences only.

A pause is a pool without slots, and a stop is a run that was canceled by request: both are Dagster's own state, and
what a person did there by hand is the same thing. Knows nothing of Dagster; `sensors/control.py` reads it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Action = Literal["pause", "resume", "stop", "skip"]
State = Literal["training", "queued", "ending", "paused", "stopped", "disk full", "idle"]

CONTROL_TAG = "gpu_assets/control"
"""On a run that was asked to end: by what."""
REASON_TAG = "gpu_assets/reason"
GOES_ON = "`gpu-assets control resume` lets it go on, from its resume point where it has one"


@dataclass(frozen=True)
class Asked:
    """The last thing that `gpu-assets control` was told; `at` is aware of its time zone."""

    action: Action
    at: datetime
    reason: str = ""

    def __str__(self) -> str:
        return f"since {self.at.isoformat(timespec='seconds')}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class Canceled:
    """The newest training run, where it was ended by request."""

    run_id: str
    created_at: datetime
    ended_at: datetime
    reason: str = ""


@dataclass(frozen=True)
class Hold:
    """Why no training run is started. `until` is set where a dataset that was opened later ends it."""

    state: Literal["paused", "stopped"]
    sentence: str
    until: datetime | None = None

    def binds(self, newest_dataset: datetime | None) -> bool:
        """Whether it still holds when this is when the newest dataset that waits was taken in or tried again."""
        return self.until is None or newest_dataset is None or newest_dataset <= self.until


def hold(pool: str, limit: int | None, canceled: Canceled | None, asked: Asked | None) -> Hold | None:
    """What keeps training from starting, or None.

    A run that was canceled goes on when somebody resumes, or skips what it trained on, after it was created; or when
    something new waits: otherwise the next tick would start what a person has just ended.

    Args:
        limit: of the pool; None where it has never been used.
    """
    if limit == 0:
        by = f" {asked}" if asked is not None and asked.action == "pause" else ""
        return Hold("paused", f"training is paused{by}: the pool {pool} has a limit of 0; {GOES_ON}")
    if canceled is None:
        return None
    if asked is not None and asked.action in ("resume", "skip") and asked.at >= canceled.created_at:
        return None
    reason = f" ({canceled.reason})" if canceled.reason else ""
    sentence = (
        f"the training run {canceled.run_id[:8]} was ended by request at "
        f"{canceled.ended_at.isoformat(timespec='seconds')}{reason}; {GOES_ON}, and so does the next dataset that is "
        "taken in"
    )
    return Hold("stopped", sentence, until=canceled.ended_at)
