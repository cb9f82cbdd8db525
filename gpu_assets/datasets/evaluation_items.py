"""What evaluation asks, as text, for the contamination rule: whatever frozen sets lie there."""

from collections.abc import Iterator

import msgspec

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import is_complete, read_manifest, sha256_file
from resources.workspace import Workspace
from validators.contamination import EvaluationItem

ITEMS_FILE = "items.jsonl"
EVALUATION_SET_KIND = "evaluation_set"
REMAKE = "materialize evaluation_sets"


class _Item(msgspec.Struct):
    """What every skill's items have; they may have more."""

    question: str
    golden_answer: str
    problem_key: str | None = None


def read_evaluation_items(workspace: Workspace) -> Iterator[EvaluationItem]:
    """Each frozen item twice, as its question alone and with its golden answer; none before sets are frozen.

    Raises:
        ArtifactInvalid: if a frozen set was changed, or a line of it is no item.
    """
    decoder = msgspec.json.Decoder(_Item)
    for path in sorted(workspace.evaluation.glob(f"*/{ITEMS_FILE}")):
        if not is_complete(path.parent):
            continue
        if sha256_file(path) != read_manifest(path.parent, EVALUATION_SET_KIND).get("items_file_sha256"):
            raise ArtifactInvalid(f"{path} was changed after it was frozen; delete the folder and {REMAKE}")
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                item = decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise ArtifactInvalid(
                    f"{path}, line {number} is no evaluation item: {error}; delete the folder and {REMAKE}"
                ) from None
            name = f"{path.parent.name}:{number}"
            yield EvaluationItem(name, item.question, item.problem_key)
            yield EvaluationItem(name, f"{item.question}\n{item.golden_answer}")
