"""What the gates let pass, read back: now, and after it was withdrawn."""

from pathlib import Path

import pytest

from gpu_assets.datasets.validated import read_validated, read_versions
from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import write_json
from resources.workspace import Workspace

MANIFEST = {
    "kind": "validated_dataset",
    "rows_sha256": "abc",
    "accepted": 1,
    "rejected": 0,
    "schema": "chat_sft_v1",
    "generator": {"id": "manual", "version": None},
}


def write(folder: Path, **changes: object) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", MANIFEST | changes)


def test_a_dataset_has_the_version_that_stands_before_the_one_that_was_withdrawn(workspace: Workspace) -> None:
    assert read_versions(workspace, "a") == []
    write(workspace.quarantine / "a" / "withdrawn")
    write(workspace.datasets / "a" / "validated", rows_sha256="def")

    found = read_versions(workspace, "a")

    assert [(version.key, version.rows_sha256, version.is_withdrawn) for version in found] == [
        ("a", "def", False),
        ("a", "abc", True),
    ]
    assert read_validated(workspace, "a") == found[0]


@pytest.mark.parametrize("changes", [{"generator": None}, {"generator": {"id": "manual"}}, {"kind": "dataset"}])
def test_a_manifest_that_the_gates_did_not_write_is_a_sentence(
    workspace: Workspace, changes: dict[str, object]
) -> None:
    write(workspace.datasets / "a" / "validated", **changes)
    with pytest.raises(ArtifactInvalid, match="datasets/a/validated"):
        read_validated(workspace, "a")


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_report_that_cannot_be_read_is_a_sentence(workspace: Workspace, content: str | None) -> None:
    folder = workspace.datasets / "a" / "validated"
    write(folder)
    if content is not None:
        (folder / "report.json").write_text(content)
    with pytest.raises(ArtifactInvalid, match="report.json"):
        _ = read_validated(workspace, "a").report
