"""What each generator made before: the row lengths of its validated datasets, for the drift rule."""

import json
from collections import defaultdict
from functools import cached_property

from resources.artifacts import MANIFEST_FILE, is_complete
from resources.workspace import Workspace

REPORT_FILE = "report.json"


class GeneratorPast:
    """Length histograms of validated datasets, read once and then kept up to date by `add`."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def lengths(self, generator_id: str, excluding: str) -> list[int] | None:
        """The histogram of all that the generator made but one dataset; None if it made nothing else."""
        others = [bins for key, bins in self._histograms[generator_id].items() if key != excluding]
        return [sum(column) for column in zip(*others, strict=True)] if others else None

    def add(self, generator_id: str, key: str, histogram: list[int]) -> None:
        self._histograms[generator_id][key] = histogram

    @cached_property
    def _histograms(self) -> defaultdict[str, dict[str, list[int]]]:
        found: defaultdict[str, dict[str, list[int]]] = defaultdict(dict)
        for folder in self._workspace.datasets.glob("*/validated"):
            if not is_complete(folder):
                continue
            manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            stats = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))["stats"]
            if "length_histogram" in stats:
                found[manifest["generator"]["id"]][folder.parent.name] = stats["length_histogram"]
        return found
