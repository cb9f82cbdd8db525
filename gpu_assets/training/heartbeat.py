"""The sign of life of the training that runs: a small JSON file for pages that show it live.

For display only: it may be old, as its writer may have been killed, and nothing may be decided by it. What is true of
training is in Dagster's runs and in the manifests. Knows nothing of torch.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gpu_assets.training.metrics import Figures
from resources.clock import utc_now

HEARTBEAT_FILE = "heartbeat.json"


class Heartbeat:
    """Replaces the file at each interval, and once more with `state` "ended" when training leaves the process."""

    def __init__(self, path: Path, plan_id: str, model_name: str, datasets: Sequence[str]) -> None:
        self._path = path
        self._about = {"plan": plan_id, "model_name": model_name, "datasets": list(datasets), "pid": os.getpid()}
        self._figures: dict[str, float | None] = {}

    def write(self, figures: Figures) -> None:
        self._figures = asdict(figures)
        self._replace("training")

    def rewind(self, step: int) -> None:
        """The next interval replaces the file."""

    def close(self) -> None:
        self._replace("ended")

    def _replace(self, state: str) -> None:
        """Not fsynced: after a crash of the machine there is nothing to show."""
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        content = {"state": state, "written_at": utc_now(), **self._about, **self._figures}
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(self._path)
