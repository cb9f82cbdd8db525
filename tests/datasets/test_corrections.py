"""Known content and new sidecars: what changes a dataset that was taken in, and what is kept beside it."""

import json
from pathlib import Path

import pytest

from gpu_assets.datasets.records import find_dataset, standing_refusal
from resources.workspace import Workspace
from tests.datasets.conftest import ROWS, drop, left_in_inbox, refuse


def duplicates(workspace: Workspace, key: str) -> list[dict[str, object]]:
    text = (workspace.datasets / key / "duplicates.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("second", ["b.jsonl", "a.jsonl", "high/c.jsonl"])
def test_known_content_is_kept_beside_the_first_and_is_no_new_dataset(workspace: Workspace, tick, second: str) -> None:
    drop(workspace, "a.jsonl", sidecar="{}")
    (key,) = tick().taken_in
    drop(workspace, second, sidecar='{"priority": "low"}')

    report = tick()

    name = Path(second).name
    assert report.taken_in == []
    assert report.notes == [f"{name} has the content of {key}: nothing new is trained"]
    assert (workspace.datasets / key / "duplicates" / name).read_text() == ROWS
    assert (workspace.datasets / key / "duplicates" / f"{name}.meta.json").exists()
    assert [(line["original_name"], line["kept_as"]) for line in duplicates(workspace, key)] == [(name, name)]
    assert find_dataset(workspace, key).sidecar_path.read_text() == "{}"
    assert left_in_inbox(workspace) == []


def test_two_files_of_one_content_in_one_tick_are_one_dataset(workspace: Workspace, tick) -> None:
    for name in ("a.jsonl", "b.jsonl", "high/a.jsonl", "low/a.jsonl"):
        drop(workspace, name)

    (key,) = tick().taken_in

    kept = sorted(path.name for path in (workspace.datasets / key / "duplicates").iterdir())
    assert kept == ["a.2.jsonl", "a.jsonl", "b.jsonl"]
    assert find_dataset(workspace, key).priority == "high"


def test_another_content_under_a_known_name_is_another_dataset(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    (first,) = tick().taken_in
    drop(workspace, "a.jsonl", "other")

    (second,) = tick().taken_in

    assert first != second


def test_a_new_sidecar_with_known_refused_content_opens_the_dataset_again(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl", sidecar='{"schema_id": "typo"}')
    (key,) = tick().taken_in
    refuse(workspace, key)
    drop(workspace, "b.jsonl", sidecar='{"schema_id": "completion_v1"}')

    assert "its sidecar opens that dataset again" in tick().notes[0]

    folder = workspace.datasets / key
    assert standing_refusal(folder) is None
    assert (folder / "sidecar.json").read_text() == '{"schema_id": "completion_v1"}'
    assert (folder / "sidecar.1.json").read_text() == '{"schema_id": "typo"}'
    assert (folder / "retry.json").exists()
    assert (folder / "duplicates" / "b.jsonl").exists()
    assert duplicates(workspace, key)[0]["sidecar_used"] is True


def test_the_same_sidecar_with_known_refused_content_changes_nothing(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl", sidecar="{}")
    (key,) = tick().taken_in
    refuse(workspace, key)
    drop(workspace, "a.jsonl", sidecar="{}")

    tick()

    assert standing_refusal(workspace.datasets / key) is not None


def test_a_sidecar_that_is_dropped_alone_corrects_the_dataset_of_its_name(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    (key,) = tick().taken_in
    refuse(workspace, key)
    (workspace.inbox / "low" / "a.jsonl.meta.json").write_text('{"schema_id": "completion_v1"}')

    assert tick().notes == [f"a.jsonl.meta.json is the new sidecar of {key}"]

    assert standing_refusal(workspace.datasets / key) is None
    assert find_dataset(workspace, key).sidecar_path is not None
    assert left_in_inbox(workspace) == []


def test_every_sidecar_that_was_corrected_is_kept(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl", sidecar="0")
    (key,) = tick().taken_in
    for number in (1, 2):
        (workspace.inbox / "a.jsonl.meta.json").write_text(str(number))
        tick()

    folder = workspace.datasets / key
    texts = [(folder / name).read_text() for name in ("sidecar.1.json", "sidecar.2.json", "sidecar.json")]
    assert texts == ["0", "1", "2"]


@pytest.mark.parametrize(("validated", "why"), [(True, "was validated already"), (False, "has the same sidecar")])
def test_a_sidecar_that_can_change_nothing_is_kept_beside_with_a_sentence(
    workspace: Workspace, tick, validated: bool, why: str
) -> None:
    drop(workspace, "a.jsonl", sidecar="{}")
    (key,) = tick().taken_in
    (workspace.inbox / "a.jsonl.meta.json").write_text('{"source": "x"}' if validated else "{}")

    (note,) = tick(validated=[key] if validated else []).notes

    assert f"changes nothing: {key} {why}" in note
    assert (workspace.datasets / key / "sidecar.json").read_text() == "{}"
    assert (workspace.datasets / key / "sidecar.ignored.json").exists()


def test_a_sidecar_of_a_dataset_in_an_open_run_waits_for_its_end(workspace: Workspace, tick) -> None:
    drop(workspace, "a.jsonl")
    (key,) = tick().taken_in
    (workspace.inbox / "a.jsonl.meta.json").write_text("{}")
    drop(workspace, "b.jsonl", sidecar="{}")

    notes = tick(open_keys=[key]).notes

    assert len(notes) == 2
    assert all(f"waits until the run over {key} has ended" in note for note in notes)
    assert left_in_inbox(workspace) == ["a.jsonl.meta.json", "b.jsonl", "b.jsonl.meta.json"]


def test_a_sidecar_without_a_data_file_waits_and_is_named(workspace: Workspace, tick) -> None:
    (workspace.inbox / "a.jsonl.meta.json").write_text("{}")

    assert tick().notes == ["a.jsonl.meta.json waits for its data file, a.jsonl"]
    assert left_in_inbox(workspace) == ["a.jsonl.meta.json"]


def test_a_young_sidecar_may_be_the_first_of_a_pair_and_is_not_given_to_an_older_dataset(
    workspace: Workspace, tick
) -> None:
    drop(workspace, "a.jsonl")
    (first,) = tick().taken_in
    sidecar = workspace.inbox / "a.jsonl.meta.json"
    sidecar.write_text("{}")

    tick(now=sidecar.stat().st_ctime + 1)
    drop(workspace, "a.jsonl", "other")
    (second,) = tick().taken_in

    assert find_dataset(workspace, first).sidecar_path is None
    assert find_dataset(workspace, second).sidecar_path is not None
