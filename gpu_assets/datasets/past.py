"""What each generator made before: the row lengths of its validated datasets, for the drift rule."""

from collections import defaultdict

from gpu_assets.datasets.validated import VALIDATED_FOLDER, ValidatedDataset, read_validated_folder
from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import is_complete
from resources.workspace import Workspace
from validators.statistics import HISTOGRAM_BINS


class GeneratorPast:
    """Length histograms of validated datasets, read once and then kept up to date by `add` and `forget`.

    A dataset whose manifest or report is not what the gates write is passed over, since it must not stop the
    others; `unreadable` has a sentence for each.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._histograms: defaultdict[str, dict[str, list[int]]] = defaultdict(dict)
        unreadable = []
        for folder in sorted(workspace.datasets.glob(f"*/{VALIDATED_FOLDER}")):
            if not is_complete(folder):
                continue
            try:
                validated = read_validated_folder(folder)
                histogram = _histogram(validated)
            except ArtifactInvalid as error:
                unreadable.append(str(error))
                continue
            if histogram is not None:
                self.add(validated.generator_id, validated.key, histogram)
        self.unreadable = tuple(unreadable)

    def lengths(self, generator_id: str, excluding: str) -> list[int] | None:
        """The histogram of all that the generator made but one dataset; None if it made nothing else."""
        others = [bins for key, bins in self._histograms[generator_id].items() if key != excluding]
        return [sum(column) for column in zip(*others, strict=True)] if others else None

    def add(self, generator_id: str, key: str, histogram: list[int]) -> None:
        """The dataset was validated, as this generator's."""
        self.forget(key)
        self._histograms[generator_id][key] = histogram

    def forget(self, key: str) -> None:
        """The dataset does not count any more."""
        for datasets in self._histograms.values():
            datasets.pop(key, None)


def _histogram(validated: ValidatedDataset) -> list[int] | None:
    """The dataset's histogram; None if its rows were not measured.

    Raises:
        ArtifactInvalid: if the report is not what the content gate writes.
    """
    stats = validated.report.get("stats")
    bins = stats.get("length_histogram", []) if isinstance(stats, dict) else None
    if bins == []:
        return None
    if not isinstance(bins, list) or len(bins) != HISTOGRAM_BINS or not all(type(count) is int for count in bins):
        raise ArtifactInvalid(
            f"the report of {validated.folder} has no {HISTOGRAM_BINS} whole numbers as stats.length_histogram; "
            f"validate {validated.key} again"
        )
    return bins
