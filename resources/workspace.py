"""Where everything lies under GPU_ASSETS_HOME. Paths only: creates folders, reads nothing."""

from dataclasses import dataclass
from pathlib import Path

PRIORITIES = ("high", "normal", "low")


@dataclass(frozen=True)
class Workspace:
    """The folders of one home."""

    home: Path

    @property
    def inbox(self) -> Path:
        return self.home / "inbox"

    @property
    def datasets(self) -> Path:
        return self.home / "datasets"

    @property
    def row_history(self) -> Path:
        """Everything ever accepted, for the duplicates of what comes next."""
        return self.home / "history" / "rows.sqlite"

    @property
    def quarantine(self) -> Path:
        return self.home / "quarantine"

    @property
    def checkpoints(self) -> Path:
        return self.home / "checkpoints"

    @property
    def training(self) -> Path:
        """Plans and resume points of training that has not ended, and its heartbeat; never ranked, never served."""
        return self.checkpoints / ".training"

    @property
    def tensorboard(self) -> Path:
        """Event files, a folder a model and training; made when there is something to write."""
        return self.home / "tensorboard"

    @property
    def models(self) -> Path:
        """Base models."""
        return self.home / "models"

    @property
    def evaluation(self) -> Path:
        return self.home / "evaluation"

    @property
    def serving(self) -> Path:
        """What the inference host holds: transferred models, keys, logs."""
        return self.home / "serving"

    @property
    def served_models(self) -> Path:
        return self.serving / "models"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME."""
        return self.home / "dagster"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    def create(self) -> "Workspace":
        """Make all folders, the inbox's priority folders included."""
        folders = [
            *(self.inbox / priority for priority in PRIORITIES),
            self.datasets,
            self.row_history.parent,
            self.quarantine,
            self.training,
            self.models,
            self.evaluation,
            self.served_models,
            self.dagster,
            self.logs,
        ]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return self
