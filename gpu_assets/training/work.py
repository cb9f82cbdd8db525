"""Work folders: a plan, its resume points, and who may work in them.

`.training/<first 16 hex of the plan's id>/`. A training process holds the lock of the home's line
from before it makes its folder until it has published, so whoever holds it may remove any such folder.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.training.line import head_of, line_of, list_checkpoints
from gpu_assets.training.records import Checkpoint, Numerics, TrainingPlan
from gpu_assets.training.resume import resume_points
from resources.artifacts import write_json
from resources.deployed import read_deployed
from resources.workspace import Workspace

logger = logging.getLogger(__name__)

LOCK_FILE = "training.lock"
OPTIMIZERS = "optimizers"
PLAN_FILE = "plan.json"
WORK_NAME = re.compile(r"[0-9a-f]{16}")
POLL_INTERVAL_S = 1.0
ASKED = "asked"
"""Of a plan's file: what of the config of its run was not the default."""


@dataclass(frozen=True)
class Unfinished:
    """A plan that was stopped: its datasets in its order, and what its run's config must say for it to go on."""

    datasets: tuple[str, ...]
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trains_again(self) -> bool:
        """Whether it trains also on what a checkpoint of the line was trained on already."""
        return bool(self.asked.get("retrain"))


@contextmanager
def line_held(workspace: Workspace, report: Callable[[str], None]) -> Iterator[int]:
    """Train alone in this home; a second process waits, and says so.

    Waiting, not refusing: two trainings from one head would fork the line, and what the first learnt would be
    missing from the second. So the second must plan after the first has published, and if the first dies, it
    goes on from its resume point. A refusal would count as a failure of the datasets. The operating system
    ends the lock with its process, and with those to which it gave the descriptor that it gets.
    """
    path = workspace.training / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not lock_descriptor(descriptor, blocking=False):
            report(f"another process trains in this home and holds {path}: waiting until it has ended")
            lock_descriptor(descriptor, poll_interval=POLL_INTERVAL_S)
        yield descriptor
    finally:
        os.close(descriptor)


def work_folder(plan: TrainingPlan, workspace: Workspace, asked: Mapping[str, Any] | None = None) -> Path:
    """The folder of a plan's resume points; it is made, and the plan is written into it, and what was asked for it."""
    folder = workspace.training / plan.plan_id[:16]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN_FILE, {**plan.to_json(), ASKED: dict(asked or {})})
    return folder


def resume_points_elsewhere(plan: TrainingPlan, workspace: Workspace) -> list[str]:
    """A sentence for each resume point that another device, precision or layout left of the same training."""
    return [
        f"{folder / PLAN_FILE} has a resume point made with {_numerics(other)}; this run computes with "
        f"{plan.numerics}, so it begins at the start"
        for folder, other in _plans(workspace)
        if other.get("recipe_id") == plan.recipe_id and other["plan_id"] != plan.plan_id and resume_points(folder)
    ]


def find_unfinished(workspace: Workspace, base_weights: str) -> Unfinished | None:
    """The plan worked on last, in the base model's line, whose resume point can be gone on from; None if there is none.

    A plan from which the line does not go on is void: its weights would not follow.
    """
    stopped = [plan for folder, plan in _plans(workspace) if resume_points(folder)]
    if not stopped:
        return None
    line = line_of(base_weights, list_checkpoints(workspace))
    parents = {base_weights, *(checkpoint.weights_sha256 for checkpoint in line)}
    champion = _champion(workspace)
    for plan in stopped:
        if plan["parent"]["weights_sha256"] in parents and _goes_on(plan, line, champion):
            return Unfinished(tuple(dataset["key"] for dataset in plan["datasets"]), plan.get(ASKED, {}))
    return None


def discard_void(workspace: Workspace, report: Callable[[str], None]) -> None:
    """Remove the work folders of plans from which no line goes on, and say which; call it with the line held.

    A plan is void when it was published, or its parent has a successor; where it was asked to go on from the champion,
    when that is another model now. One that waits in the line of another base model stays. A work folder without a
    readable plan is void too; a folder of another name is none, and stays.
    """
    published, champion = list_checkpoints(workspace), _champion(workspace)
    kept = {folder for folder, plan in _plans(workspace) if _goes_on(plan, published, champion)}
    for folder in workspace.training.iterdir():
        if folder.is_dir() and WORK_NAME.fullmatch(folder.name) and folder not in kept:
            shutil.rmtree(folder)
            report(f"removed the work folder {folder}: its plan is published, or no line goes on from it")


def discard_torn(workspace: Workspace) -> None:
    """Remove what a killed process left half-written beside the checkpoints; call it with the line held."""
    for folder in (workspace.checkpoints, workspace.training / OPTIMIZERS):
        for torn in (*folder.glob(".*.tmp"), *folder.glob(".*.old")):
            shutil.rmtree(torn)


def _goes_on(plan: Mapping[str, Any], published: Sequence[Checkpoint], champion: str | None) -> bool:
    if plan["plan_id"] in {checkpoint.manifest.get("plan_id") for checkpoint in published}:
        return False
    parent = plan["parent"]["weights_sha256"]
    if plan.get(ASKED, {}).get("parent") == "champion":
        return bool(parent == champion)
    if plan["parent"]["kind"] == "base_model":
        return not line_of(parent, published)
    bases = [checkpoint.base_weights_sha256 for checkpoint in published if checkpoint.weights_sha256 == parent]
    return any(head_of(base, published) == parent for base in bases)


def _champion(workspace: Workspace) -> str | None:
    """The weights that are recorded as deployed; None where the record cannot be read, which deployments say."""
    try:
        deployed = read_deployed(workspace)
    except ArtifactInvalid as error:
        logger.error("no plan goes on from the champion: %s", error)
        return None
    return None if deployed is None else deployed.get("weights_sha256")


def _plans(workspace: Workspace) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The work folders and their plans, the one worked on last first.

    A folder without a readable plan is passed over, with an error in the log.
    """
    for path in sorted(workspace.training.glob(f"*/{PLAN_FILE}"), key=_changed_at, reverse=True):
        try:
            yield path.parent, json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            logger.error("passed over: %s is not a plan: %s", path, error)


def _changed_at(plan: Path) -> int:
    return plan.parent.stat().st_mtime_ns


def _numerics(plan: dict[str, Any]) -> str:
    return str(Numerics(**plan["numerics"]))
