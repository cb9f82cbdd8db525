import json
from datetime import UTC, datetime

import pytest

from gpu_assets.datasets.records import (
    dataset_keys,
    find_dataset,
    list_datasets,
    open_since,
    read_dataset,
    reopen,
    sidecar_sha256,
    standing_refusal,
    write_refusal,
)
from gpu_assets.errors import ArtifactInvalid, SettingsError
from resources.workspace import Workspace


@pytest.fixture
def key(workspace: Workspace, tick) -> str:
    (workspace.inbox / "a.jsonl").write_text('{"text": "x"}\n')
    (workspace.inbox / "a.jsonl.meta.json").write_text("{}")
    return tick().taken_in[0]


def test_what_the_intake_wrote_is_read_back(workspace: Workspace, key: str) -> None:
    dataset = find_dataset(workspace, key)

    assert dataset.data_path.read_text() == '{"text": "x"}\n'
    assert dataset.sidecar_path is not None and dataset.sidecar_path.read_text() == "{}"
    assert dataset.original_name == dataset.inbox_path == "a.jsonl"
    assert dataset.refused is None
    assert list_datasets(workspace) == [dataset]


def test_a_folder_without_a_manifest_is_no_dataset(workspace: Workspace, key: str) -> None:
    (workspace.datasets / "half-00000000").mkdir()

    assert dataset_keys(workspace) == [key]
    with pytest.raises(ArtifactInvalid, match="half-00000000 has no manifest"):
        read_dataset(workspace.datasets / "half-00000000")


@pytest.mark.parametrize("key", ["", ".", "..", "../a", "/etc", "no-such-key", "x" * 5000, "a\0b"])
def test_an_unknown_key_is_named_in_the_error(workspace: Workspace, key: str) -> None:
    with pytest.raises(SettingsError, match="no dataset has the key"):
        find_dataset(workspace, key)


def test_a_manifest_that_lacks_a_field_is_refused_by_name(workspace: Workspace, key: str) -> None:
    (workspace.datasets / key / "manifest.json").write_text(json.dumps({"kind": "dataset"}))

    with pytest.raises(ArtifactInvalid, match=f"{key} has no 'key'"):
        find_dataset(workspace, key)


def test_a_refusal_stands_until_the_sidecar_is_another_one(workspace: Workspace, key: str) -> None:
    folder = workspace.datasets / key
    assert standing_refusal(folder) is None

    write_refusal(folder, "no schema", {"spec": "1"}, sidecar_sha256(folder))
    refusal = standing_refusal(folder)
    assert refusal is not None and refusal.sentence == "no schema"

    (folder / "sidecar.json").write_text('{"schema_id": "syllo_v1"}')
    assert standing_refusal(folder) is None


def test_a_refusal_without_a_sidecar_ends_when_one_comes(workspace: Workspace, key: str) -> None:
    folder = workspace.datasets / key
    (folder / "sidecar.json").unlink()
    write_refusal(folder, "no schema", {}, sidecar_sha256(folder))
    assert standing_refusal(folder) is not None

    (folder / "sidecar.json").write_text("{}")
    assert standing_refusal(folder) is None


def test_failures_count_since_the_taking_in_and_then_since_the_reopening(workspace: Workspace, key: str) -> None:
    dataset = find_dataset(workspace, key)
    assert open_since(dataset) == datetime.fromisoformat(dataset.taken_in_at)

    before = datetime.now(UTC)
    reopen(dataset.folder)
    assert before <= open_since(dataset) <= datetime.now(UTC)


def test_files_that_others_wrote_in_place_of_ours_are_named(workspace: Workspace, key: str) -> None:
    dataset = find_dataset(workspace, key)
    (dataset.folder / "retry.json").write_text("[]")
    (dataset.folder / "refusal.json").write_text('{"a": 1}')

    with pytest.raises(ArtifactInvalid, match="retry.json is not a retry stamp"):
        open_since(dataset)
    with pytest.raises(ArtifactInvalid, match="refusal.json is not a refusal"):
        standing_refusal(dataset.folder)
