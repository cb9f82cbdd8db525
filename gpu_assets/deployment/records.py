"""What the deployment stage reads and writes, as values."""

from dataclasses import asdict, dataclass, fields

from resources.deployed import read_deployed, write_deployed
from resources.workspace import Workspace


@dataclass(frozen=True)
class Deployment:
    """What is served and why; written only after the server was asked and answered with this hash."""

    checkpoint: str
    step: int
    weights_sha256: str
    served_path: str
    accuracy: float
    evaluation_set_sha256: str
    decision: str
    question: str
    answer: str
    expected: str
    decided_at: str
    verified_at: str
    decision_to_verified_s: float
    checkpoint_to_verified_s: float

    @classmethod
    def read(cls, workspace: Workspace) -> "Deployment | None":
        """The recorded deployment, or None if nothing was ever deployed."""
        record = read_deployed(workspace)
        return None if record is None else cls(**{field.name: record[field.name] for field in fields(cls)})

    def write(self, workspace: Workspace) -> None:
        """Replace the recorded deployment atomically."""
        write_deployed(workspace, asdict(self))


@dataclass(frozen=True)
class Decision:
    """Whether to flip the alias to the best checkpoint, and the sentence that says why.

    `serve_again` asks for the recorded deployment, which stays but which the server does not serve.
    """

    deploy: bool
    reason: str
    serve_again: bool = False
