import json
from dataclasses import replace
from pathlib import Path

import pytest

from gpu_assets.datasets.queue import (
    GaveUp,
    QueueFacts,
    add_files,
    describe,
    list_inbox,
    list_queue,
    retry,
    retryable,
    set_priority,
)
from gpu_assets.datasets.records import find_dataset, open_since, standing_refusal
from gpu_assets.errors import IntakeRefused, SettingsError
from resources.workspace import Workspace
from tests.datasets.conftest import ROWS, refuse


@pytest.fixture
def key(workspace: Workspace, tick) -> str:
    (workspace.inbox / "a.jsonl").write_text(ROWS)
    return tick().taken_in[0]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


# States


@pytest.mark.parametrize(
    ("known", "state"),
    [
        ({}, "waiting"),
        ({"under_way": {"taking in": ["KEY"]}}, "validating"),
        ({"validated": ["KEY"]}, "validated"),
        ({"validated": ["KEY"], "under_way": {"training": ["KEY"]}}, "training"),
        ({"validated": ["KEY"], "trained": ["KEY"]}, "trained"),
        ({"trained": ["KEY"], "under_way": {"judging": ["KEY"]}}, "judging"),
        ({"trained": ["KEY"], "scored": ["KEY"], "under_way": {"training": ["KEY"]}}, "training"),
        ({"trained": ["KEY"], "scored": ["KEY"]}, "scored"),
        ({"gave_up": {"KEY": ["taking in", 3]}}, "set aside"),
        ({"gave_up": {"KEY": ["taking in", 3]}, "under_way": {"taking in": ["KEY"]}}, "validating"),
        ({"gave_up": {"KEY": ["training", 3]}, "validated": ["KEY"]}, "set aside"),
        ({"gave_up": {"KEY": ["judging", 3]}, "trained": ["KEY"]}, "set aside"),
        ({"gave_up": {"KEY": ["judging", 3]}, "trained": ["KEY"], "under_way": {"judging": ["KEY"]}}, "judging"),
    ],
)
def test_a_state_follows_from_what_dagster_knows(workspace: Workspace, key: str, known, state: str) -> None:
    facts = QueueFacts(**json.loads(json.dumps(known).replace("KEY", key)))
    facts = replace(facts, gave_up={given: GaveUp(*found) for given, found in facts.gave_up.items()})

    assert describe(find_dataset(workspace, key), facts).state == state


@pytest.mark.parametrize(
    ("gave_up", "says"),
    [
        (GaveUp("judging", 4, "the server is gone."), "after 4 failed runs: the server is gone; see them in Dagster"),
        (GaveUp("training", 1, "the loss rose"), "after 1 failed run: the loss rose; see it in Dagster"),
        (GaveUp("training", 3), "after 3 failed runs; see them in Dagster"),
    ],
)
def test_what_was_set_aside_says_which_stage_gave_up_when_and_why_and_how_it_is_tried_again(
    workspace: Workspace, key: str, gave_up: GaveUp, says: str
) -> None:
    row = describe(find_dataset(workspace, key), QueueFacts(trained=[key], gave_up={key: gave_up}))

    assert row.sentence == f"trained; {gave_up.stage} gave up {says}, then `gpu-assets queue retry {key}`"
    assert row.can_retry


def test_a_manifest_that_cannot_be_read_is_listed_as_broken_with_its_sentence_and_the_others_as_ever(
    workspace: Workspace, key: str, tick
) -> None:
    (workspace.inbox / "b.jsonl").write_text("b")
    tick()
    (workspace.datasets / key / "manifest.json").write_text("{")

    good, broken = list_queue(workspace, QueueFacts())

    assert good.original_name == "b.jsonl"
    assert (broken.key, broken.state, broken.can_retry) == (key, "broken", False)
    assert "manifest.json is not JSON" in broken.sentence


@pytest.mark.parametrize("name", ["retry.json", "refusal.json"])
def test_a_record_that_a_retry_replaces_is_broken_until_then(workspace: Workspace, key: str, name: str) -> None:
    (workspace.datasets / key / name).write_text("[]")
    (row,) = list_queue(workspace, QueueFacts())
    assert (row.state, retryable(workspace, QueueFacts())) == ("broken", [key])
    assert f"{name} is not a" in row.sentence

    retry(workspace, key, scored=())
    assert list_queue(workspace, QueueFacts())[0].state == "waiting"


def test_what_can_be_tried_again_is_what_is_refused_or_set_aside_and_has_data(
    workspace: Workspace, key: str, tick
) -> None:
    (workspace.inbox / "d").mkdir()
    (workspace.inbox / "waits.jsonl").write_text("b")
    (workspace.inbox / "given-up.jsonl").write_text("c")
    given_up = next(taken for taken in tick().taken_in if taken.startswith("given-up"))
    refuse(workspace, key)

    assert retryable(workspace, QueueFacts(gave_up={given_up: GaveUp("taking in", 3)})) == [key, given_up]


def test_a_refused_dataset_shows_the_gates_sentence_until_it_is_validated(workspace: Workspace, key: str) -> None:
    refuse(workspace, key)

    row = describe(find_dataset(workspace, key), QueueFacts())
    assert (row.state, row.sentence) == ("refused", "no such schema")
    assert describe(find_dataset(workspace, key), QueueFacts(validated=[key])).state == "validated"


def test_the_queue_lists_by_priority_then_age_and_names_what_the_inbox_refused(workspace: Workspace, tick) -> None:
    (workspace.inbox / "low" / "l.jsonl").write_text("l")
    (workspace.inbox / "high" / "h.jsonl").write_text("h")
    (workspace.inbox / "n").mkdir()
    tick()
    (workspace.inbox / "high" / "later.jsonl").write_text("later")

    rows = list_queue(workspace, QueueFacts())

    assert [(row.original_name, row.state) for row in rows] == [
        ("h.jsonl", "waiting"),
        ("n", "refused"),
        ("l.jsonl", "waiting"),
    ]
    assert "is a directory" in rows[1].sentence
    assert list_inbox(workspace) == ["high/later.jsonl"]


# Adding


def test_a_file_is_added_with_its_sidecar_unchanged_and_the_original_stays(workspace: Workspace, outside: Path) -> None:
    file = outside / "a.jsonl"
    file.write_text(ROWS)
    (outside / "a.jsonl.meta.json").write_text("not json")

    (target,) = add_files(workspace, [file], "high")

    assert target == workspace.inbox / "high" / "a.jsonl"
    assert target.read_text() == file.read_text() == ROWS
    assert target.with_name("a.jsonl.meta.json").read_text() == "not json"
    assert sorted(path.name for path in target.parent.iterdir()) == ["a.jsonl", "a.jsonl.meta.json"]


def test_a_sidecar_appears_only_when_its_data_is_whole(
    workspace: Workspace, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = outside / "a.jsonl"
    file.write_text(ROWS)
    (outside / "a.jsonl.meta.json").write_text("{}")
    seen: list[list[str]] = []

    def copy_slowly(source: Path, target: Path) -> None:
        seen.append(list_inbox(workspace))
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr("shutil.copyfile", copy_slowly)
    add_files(workspace, [file])

    assert seen == [[]]
    assert sorted(path.name for path in workspace.inbox.glob("a.*")) == ["a.jsonl", "a.jsonl.meta.json"]


@pytest.mark.parametrize(
    ("sidecar", "expected"),
    [
        (None, {"schema_id": "syllo_v1"}),
        ('{"source": "me"}', {"source": "me", "schema_id": "syllo_v1"}),
        ('{"schema_id": "syllo_v1"}', {"schema_id": "syllo_v1"}),
    ],
)
def test_a_schema_is_written_into_the_sidecar(workspace: Workspace, outside: Path, sidecar, expected) -> None:
    file = outside / "a.jsonl"
    file.write_text(ROWS)
    if sidecar is not None:
        (outside / "a.jsonl.meta.json").write_text(sidecar)

    (target,) = add_files(workspace, [file], schema_id="syllo_v1")

    assert json.loads(target.with_name("a.jsonl.meta.json").read_text()) == expected


@pytest.mark.parametrize(
    ("sidecar", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list, wanted: a JSON object"),
        ('{"schema_id": "chat_sft_v1"}', "names the schema 'chat_sft_v1' and --schema 'syllo_v1'"),
    ],
)
def test_a_schema_that_does_not_fit_the_sidecar_is_refused(
    workspace: Workspace, outside: Path, sidecar: str, sentence: str
) -> None:
    (outside / "a.jsonl").write_text(ROWS)
    (outside / "a.jsonl.meta.json").write_text(sidecar)

    with pytest.raises(IntakeRefused, match=sentence):
        add_files(workspace, [outside / "a.jsonl"], schema_id="syllo_v1")
    assert list_inbox(workspace) == []


@pytest.mark.parametrize(
    ("name", "seen"), [("d", "a directory"), ("a.csv", "of another name"), ("x.jsonl", "not there")]
)
def test_nothing_is_added_if_one_of_the_files_cannot_be(
    workspace: Workspace, outside: Path, name: str, seen: str
) -> None:
    (outside / "good.jsonl").write_text(ROWS)
    (outside / "d").mkdir()
    (outside / "a.csv").write_text("1,2")

    with pytest.raises(IntakeRefused, match=f"{name} is .*{seen}"):
        add_files(workspace, [outside / "good.jsonl", outside / name])
    assert list_inbox(workspace) == []


def test_a_name_that_is_taken_is_numbered_and_a_long_one_leaves_room_for_its_sidecar(
    workspace: Workspace, outside: Path, tick
) -> None:
    long = outside / ("ä" * 124 + ".jsonl")
    long.write_text(ROWS)

    first, second = (add_files(workspace, [long], schema_id="completion_v1")[0] for _ in range(2))

    assert first != second
    assert second.name.endswith(".2.jsonl")
    (key,) = tick().taken_in
    assert find_dataset(workspace, key).sidecar_path is not None


def test_an_added_file_is_taken_in_whole(workspace: Workspace, outside: Path, tick) -> None:
    (outside / "\udcff.jsonl").write_text(ROWS)

    add_files(workspace, [outside / "\udcff.jsonl"], "low")

    (key,) = tick().taken_in
    assert find_dataset(workspace, key).priority == "low"


# Changing


def test_a_priority_is_changed_until_the_dataset_is_trained(workspace: Workspace, key: str) -> None:
    before = find_dataset(workspace, key)

    assert set_priority(workspace, key, "high", trained=()).priority == "high"

    after = find_dataset(workspace, key)
    assert after.priority == "high"
    assert after.to_manifest() | {"priority": "normal"} == before.to_manifest()
    with pytest.raises(SettingsError, match="was trained already"):
        set_priority(workspace, key, "low", trained=[key])


def test_a_retry_forgets_the_refusal_and_the_failures(workspace: Workspace, key: str) -> None:
    refuse(workspace, key)
    opened = open_since(find_dataset(workspace, key))

    dataset = retry(workspace, key, scored=())

    assert standing_refusal(dataset.folder) is None
    assert open_since(dataset) >= opened
    assert (dataset.folder / "retry.json").exists()


def test_a_retry_of_what_has_no_data_or_was_trained_is_refused(workspace: Workspace, key: str, tick) -> None:
    (workspace.inbox / "d").mkdir()
    (refused,) = tick().refused

    with pytest.raises(SettingsError, match="has no data to try again: d is a directory"):
        retry(workspace, refused, scored=())
    with pytest.raises(SettingsError, match="was trained and its checkpoint scored"):
        retry(workspace, key, scored=[key])
    with pytest.raises(SettingsError, match="no dataset has the key 'nobody'"):
        retry(workspace, "nobody", scored=())
