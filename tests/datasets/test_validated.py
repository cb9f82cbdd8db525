"""What the gates let pass, read back: now, and after it was replaced or withdrawn."""

from pathlib import Path

import polars as pl
import pytest

from gpu_assets.datasets.validated import problem_keys, read_validated, read_versions
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


def test_a_dataset_has_the_version_that_stands_before_those_that_did(workspace: Workspace) -> None:
    assert read_versions(workspace, "a") == []
    write(workspace.quarantine / "a" / "withdrawn" / "abc")
    write(workspace.datasets / "a" / "validated", rows_sha256="def")

    found = read_versions(workspace, "a")

    assert [(version.key, version.rows_sha256, version.since) for version in found] == [
        ("a", "def", None),
        ("a", "abc", "replaced"),
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


def test_every_problem_key_is_found_whatever_else_the_metadata_holds(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    metadata = [
        '{"problem_key": "a"}',
        '{"problem_key": "b", "n": 1e999}',
        f'{{"problem_key": "c", "n": {"9" * 400}}}',
        f'{{"problem_key": "d", "deep": {"[" * 200}1{"]" * 200}}}',
        '{"problem\\u005fkey": "e"}',
        '{"other": 1}',
        None,
    ]
    pl.DataFrame({"metadata": metadata}).write_parquet(path)
    assert problem_keys(path) == {"a", "b", "c", "d", "e"}
