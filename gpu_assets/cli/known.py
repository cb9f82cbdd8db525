"""What level DEEP compares a file with: the home's history of accepted rows and its evaluation sets.

Imported where level DEEP is asked for; the other levels start without it.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gpu_assets.datasets.evaluation_items import read_evaluation_items
from gpu_assets.settings import Validation
from resources.workspace import Workspace
from validators.contamination import EvaluationIndex
from validators.duplicates import DuplicateFinder
from validators.history import RowHistory
from validators.lines import LineReader


@dataclass(frozen=True)
class Known:
    """Opened to be read only; both are empty where the home has none."""

    history: RowHistory
    evaluation: EvaluationIndex
    similarity: float

    @classmethod
    def open(cls, workspace: Workspace, thresholds: Validation, stack: ExitStack) -> "Known":
        """What the home knows; closed with `stack`.

        Raises:
            ArtifactInvalid: if the history is none, or an evaluation set cannot be read.
        """
        history = stack.enter_context(RowHistory.open(workspace.row_history, read_only=True))
        evaluation = EvaluationIndex.build(read_evaluation_items(workspace), thresholds.boilerplate_items)
        return cls(history, evaluation, thresholds.near_duplicate_similarity)

    def finder(self, path: Path) -> DuplicateFinder:
        """Finds duplicates of all rows but those of the dataset with the same content as the file, compressed or not.

        Raises:
            Unreadable: if the file cannot be read.
        """
        with LineReader(path) as reader:
            sha256 = reader.sha256()
        ends = ((key, key.rpartition("-")[2]) for key in self.history.datasets())  # first digits of the content's hash
        own_key = next((key for key, digits in ends if digits and sha256.startswith(digits)), "")
        return DuplicateFinder(self.history, own_key, self.similarity)
