"""Frozen evaluation sets: every reserved problem of a skill, up to a level."""

import json
from dataclasses import asdict
from pathlib import Path

from gpu_assets.datasets.evaluation_items import EVALUATION_SET_KIND, ITEMS_FILE
from gpu_assets.errors import ArtifactInvalid, EvaluationInvalid
from gpu_assets.evaluation.records import EvaluationItem, EvaluationSet
from resources.artifacts import (
    MANIFEST_FILE,
    is_complete,
    publishing,
    read_manifest,
    sha256_file,
    sha256_json,
    write_json,
)
from resources.workspace import Workspace
from serving.skills import binary


def build_evaluation_set(level: int) -> EvaluationSet:
    """The reserved problems of the binary skill at a level and all below, in the skill's order."""
    items = tuple(
        EvaluationItem(
            problem_key=problem.key,
            operation=problem.operation,
            left=problem.left,
            right=problem.right,
            question=binary.question(problem),
            golden_answer=binary.worked_answer(problem),
        )
        for problem in binary.problems(level)
        if problem.held_out
    )
    return EvaluationSet(binary.SKILL_ID, level, items, sha256=sha256_json([asdict(item) for item in items]))


def freeze(evaluation_set: EvaluationSet, workspace: Workspace) -> Path:
    """Write the set to `evaluation/`; a set that is there already is left as it is.

    Raises:
        EvaluationInvalid: if a golden answer does not score.
    """
    check_golden_answers(evaluation_set)
    folder = workspace.evaluation / evaluation_set.name
    if is_complete(folder):
        return folder
    with publishing(folder) as temporary:
        lines = (json.dumps(asdict(item), ensure_ascii=False) for item in evaluation_set.items)
        (temporary / ITEMS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        manifest = {
            "kind": EVALUATION_SET_KIND,
            "format": 1,
            "skill": evaluation_set.skill,
            "level": evaluation_set.level,
            "sha256": evaluation_set.sha256,
            "items": len(evaluation_set.items),
            "items_file_sha256": sha256_file(temporary / ITEMS_FILE),
        }
        write_json(temporary / MANIFEST_FILE, manifest)
    return folder


def read_evaluation_set(folder: Path) -> EvaluationSet:
    """A frozen set, checked against its manifest.

    Raises:
        ArtifactInvalid: if the folder has no manifest or its items were changed.
    """
    manifest = read_manifest(folder, EVALUATION_SET_KIND)
    lines = (folder / ITEMS_FILE).read_text(encoding="utf-8").splitlines()
    items = tuple(EvaluationItem(**json.loads(line)) for line in lines)
    sha256 = sha256_json([asdict(item) for item in items])
    if sha256 != manifest["sha256"]:
        raise ArtifactInvalid(
            f"{folder / ITEMS_FILE} was changed: its content is {sha256[:8]}, the manifest says "
            f"{manifest['sha256'][:8]}. Delete the folder and materialize evaluation_sets."
        )
    return EvaluationSet(manifest["skill"], manifest["level"], items, sha256)


def check_golden_answers(evaluation_set: EvaluationSet) -> float:
    """Accuracy of the golden answers, which is 1.0 or an error.

    Raises:
        EvaluationInvalid: naming the first golden answer that does not score.
    """
    if not evaluation_set.items:
        raise EvaluationInvalid(f"evaluation set {evaluation_set.name} has no items")
    for item in evaluation_set.items:
        if not binary.is_correct(problem_of(item), item.golden_answer):
            raise EvaluationInvalid(
                f"evaluation set {evaluation_set.name}: the golden answer of {item.problem_key}, "
                f"{item.golden_answer!r}, does not score; no model can be measured with it"
            )
    return 1.0


def problem_of(item: EvaluationItem) -> binary.Problem:
    """The problem that an item asks."""
    operation = next(known for known in binary.OPERATIONS if known == item.operation)
    return binary.Problem(operation, item.left, item.right)
