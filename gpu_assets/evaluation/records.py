"""What the evaluation stage reads and writes, as values."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import read_manifest, sha256_json

SCORE_KIND = "score"


@dataclass(frozen=True)
class EvaluationItem:
    """One held-out question with its golden answer and the final result that counts."""

    problem_key: str
    operation: str
    left: int
    right: int
    question: str
    golden_answer: str


@dataclass(frozen=True)
class EvaluationSet:
    """Frozen questions; `sha256` identifies them and their order."""

    skill: str
    level: int
    items: tuple[EvaluationItem, ...]
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.skill}-level{self.level}-{self.sha256[:8]}"

    @property
    def problem_keys(self) -> frozenset[str]:
        return frozenset(item.problem_key for item in self.items)


@dataclass(frozen=True)
class ScoringParameters:
    """How answers are made; greedy always, so the same weights give the same score."""

    max_new_tokens: int
    renderer_digest: str


@dataclass(frozen=True)
class Answer:
    """A model's answer to one item. `parsed` is None where no final result was found."""

    problem_key: str
    text: str
    parsed: str | None
    correct: bool
    truncated: bool


@dataclass(frozen=True)
class Score:
    """A checkpoint on an evaluation set; rates in [0, 1], the interval is Wilson's at 95 %."""

    checkpoint: str
    step: int
    weights_sha256: str
    skill: str
    level: int
    evaluation_set_sha256: str
    parameters: ScoringParameters
    n: int
    correct: int
    accuracy: float
    low: float
    high: float
    parse_failure_rate: float
    truncation_rate: float
    loss: float
    seconds: float
    scored_at: str
    folder: Path

    @property
    def identity(self) -> str:
        """Same weights, same questions, same way of asking: the same score."""
        return score_identity(self.weights_sha256, self.evaluation_set_sha256, self.parameters)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        del values["folder"]
        return values

    @classmethod
    def read(cls, folder: Path) -> "Score":
        """The score in a folder.

        Raises:
            ArtifactInvalid: if the folder has no manifest of a score, or one with other fields.
        """
        manifest = read_manifest(folder, SCORE_KIND)
        try:
            values = dict(manifest["score"])
            values["parameters"] = ScoringParameters(**values["parameters"])
            return cls(**values, folder=folder)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactInvalid(f"the manifest of {folder} is not a score's: {error}; delete the folder") from None


def score_identity(weights_sha256: str, evaluation_set_sha256: str, parameters: ScoringParameters) -> str:
    return sha256_json([weights_sha256, evaluation_set_sha256, asdict(parameters)])
