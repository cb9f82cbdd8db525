"""Flip the alias, verify over the API, ask one question, and only then record it.

What was not verified is not left served: the model before is served again, or none.
"""

import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from gpu_assets.deployment.records import Decision, Deployment
from gpu_assets.errors import DeploymentRefused, ServiceError
from gpu_assets.evaluation.records import EvaluationItem, Score
from gpu_assets.evaluation.sets import problem_of
from gpu_assets.training.records import Checkpoint
from resources.services import ChatAnswer, ModelInfo
from resources.workspace import Workspace
from serving.skills import binary

logger = logging.getLogger(__name__)

CHAMPION = "champion"


class Server(Protocol):
    """The inference server, as a client of it looks."""

    def info(self) -> ModelInfo:
        """What the alias `champion` points at."""

    def reload(self, path: Path) -> ModelInfo:
        """Point the alias at the model in a folder."""

    def undeploy(self) -> str | None:
        """Point the alias at nothing."""

    def chat(self, messages: list[dict[str, str]], *, model: str, max_tokens: int) -> ChatAnswer:
        """One greedy answer."""


def deploy(
    score: Score,
    checkpoint: Checkpoint,
    served_path: Path,
    decision: Decision,
    item: EvaluationItem,
    *,
    server: Server,
    workspace: Workspace,
) -> Deployment:
    """Serve a scored checkpoint as `champion`; on any failure the one before is served again, or none.

    Raises:
        DeploymentRefused: if the server serves other weights afterwards, or gives no answer.
        ServiceError: if the server refuses the folder or cannot be reached.
    """
    before = _served_before(workspace, server)
    decided_at, begun = datetime.now(UTC), time.monotonic()
    try:
        server.reload(served_path)
        answer = _verify(score, item, server)
    except (ServiceError, DeploymentRefused):
        _restore(before, server)
        raise
    verified_at = datetime.now(UTC)
    deployment = Deployment(
        checkpoint=score.checkpoint,
        step=score.step,
        weights_sha256=score.weights_sha256,
        served_path=str(served_path),
        accuracy=score.accuracy,
        evaluation_set_sha256=score.evaluation_set_sha256,
        decision=decision.reason,
        question=item.question,
        answer=answer.text,
        expected=binary.to_digits(problem_of(item).result),
        decided_at=decided_at.isoformat(timespec="milliseconds"),
        verified_at=verified_at.isoformat(timespec="milliseconds"),
        decision_to_verified_s=round(time.monotonic() - begun, 3),
        checkpoint_to_verified_s=round(
            (verified_at - datetime.fromisoformat(checkpoint.created_at)).total_seconds(), 1
        ),
    )
    deployment.write(workspace)
    return deployment


def _verify(score: Score, item: EvaluationItem, server: Server) -> ChatAnswer:
    served = server.info().weights_sha256
    if served != score.weights_sha256:
        raise DeploymentRefused(
            f"the server serves weights {served and served[:8]} after the flip, wanted {score.weights_sha256[:8]} of "
            f"{score.checkpoint}; nothing is recorded"
        )
    messages = [{"role": "user", "content": item.question}]
    answer = server.chat(messages, model=CHAMPION, max_tokens=score.parameters.max_new_tokens)
    if answer.weights_sha256 != score.weights_sha256 or not answer.text.strip():
        raise DeploymentRefused(
            f"{score.checkpoint} answered {answer.text!r} from weights {answer.weights_sha256[:8]}; nothing is recorded"
        )
    return answer


def _served_before(workspace: Workspace, server: Server) -> Path | None:
    """The folder to serve again if verification fails: what is recorded, else what the server says it serves."""
    recorded = Deployment.read(workspace)
    if recorded is not None:
        return Path(recorded.served_path)
    served = server.info()
    return Path(served.path) if served.path is not None else None


def _restore(before: Path | None, server: Server) -> None:
    """Serve what was served before, else nothing; a failure here is logged, the first one is raised by the caller."""
    if before is not None:
        try:
            server.reload(before)
            return
        except ServiceError as error:
            logger.error("%s could not be served again, so nothing is served: %s", before.name, error)
    try:
        server.undeploy()
    except ServiceError as error:
        logger.error("the server may go on with a model that was not verified: %s", error)
