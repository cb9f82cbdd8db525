"""Work folders: a plan, its resume points, and who may work in them.

`.training/<first 16 hex of the plan's id>/`. A training process holds the lock of the home's line
from before it makes its folder until it has published, so whoever holds it may remove any folder.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from gpu_assets.training.line import head_of, line_of, list_checkpoints
from gpu_assets.training.records import Checkpoint, Numerics, TrainingPlan
from gpu_assets.training.resume import resume_points
from resources.artifacts import write_json
from resources.workspace import Workspace

logger = logging.getLogger(__name__)

LOCK_FILE = "training.lock"
OPTIMIZERS = "optimizers"
PLAN_FILE = "plan.json"
POLL_INTERVAL_S = 1.0


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


def work_folder(plan: TrainingPlan, workspace: Workspace) -> Path:
    """The folder of a plan's resume points; it is made, and the plan is written into it."""
    folder = workspace.training / plan.plan_id[:16]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN_FILE, plan.to_json())
    return folder


def resume_points_elsewhere(plan: TrainingPlan, workspace: Workspace) -> list[str]:
    """A sentence for each resume point that another device, precision or layout left of the same training."""
    return [
        f"{folder / PLAN_FILE} has a resume point made with {_numerics(other)}; this run computes with "
        f"{plan.numerics}, so it begins at the start"
        for folder, other in _plans(workspace)
        if other.get("recipe_id") == plan.recipe_id and other["plan_id"] != plan.plan_id and resume_points(folder)
    ]


def unfinished_datasets(workspace: Workspace, base_weights: str) -> list[str]:
    """The datasets of a plan whose resume point can be gone on from, in its order; empty if there is none.

    A plan from another parent than the head of the base model's line is void: its weights would not follow.
    """
    stopped = [plan for folder, plan in _plans(workspace) if resume_points(folder)]
    if not stopped:
        return []
    head = head_of(base_weights, list_checkpoints(workspace))
    for plan in stopped:
        if plan["parent"]["weights_sha256"] == head:
            return [dataset["key"] for dataset in plan["datasets"]]
    return []


def discard_void(workspace: Workspace) -> None:
    """Remove the work folders of plans from which no line goes on; call it with the line held.

    A plan is void when its parent has a successor: so the plan that was just published is, and every other
    from the same parent. One that waits in the line of another base model stays.
    """
    published = list_checkpoints(workspace)
    kept = {folder for folder, plan in _plans(workspace) if _goes_on(plan, published)}
    for folder in workspace.training.iterdir():
        if folder.is_dir() and folder.name != OPTIMIZERS and folder not in kept:
            shutil.rmtree(folder)


def discard_torn(workspace: Workspace) -> None:
    """Remove what a killed process left half-written beside the checkpoints; call it with the line held."""
    for folder in (workspace.checkpoints, workspace.training / OPTIMIZERS):
        for torn in (*folder.glob(".*.tmp"), *folder.glob(".*.old")):
            shutil.rmtree(torn)


def _goes_on(plan: dict[str, Any], published: Sequence[Checkpoint]) -> bool:
    parent = plan["parent"]["weights_sha256"]
    if plan["parent"]["kind"] == "base_model":
        return not line_of(parent, published)
    bases = [checkpoint.base_weights_sha256 for checkpoint in published if checkpoint.weights_sha256 == parent]
    return any(head_of(base, published) == parent for base in bases)


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
