"""Both ways, on real checkpoints: which rows made a model, and which models saw a row."""

import gzip
import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from gpu_assets.datasets.records import find_dataset
from gpu_assets.datasets.validated import read_validated
from gpu_assets.errors import ArtifactInvalid, SettingsError
from gpu_assets.lineage.rows import find_row
from gpu_assets.lineage.trace import CHANGED, GONE, RowTrace, find_checkpoint, rows_of, seen_by
from resources.artifacts import sha256_file
from resources.workspace import Workspace
from tests.lineage.world import BAD_LINE, ROWS, World, accept_fewer, refuse, train_on_c_too, validate, validate_again

MAX_BYTES = 2**20
TURN = {"role": "assistant", "content": "a"}


def trace(workspace: Workspace, wanted: str) -> RowTrace:
    return seen_by(workspace, find_row(workspace, wanted, MAX_BYTES))


@pytest.fixture
def own(world: World, tmp_path: Path) -> Workspace:
    """A copy of the world that a test may change."""
    return Workspace(Path(shutil.copytree(world.workspace.home, tmp_path / "own")))


def row_hash(world: World, key: str, line: int) -> str:
    return row_hash_in(world.workspace, key, line)


def row_hash_in(workspace: Workspace, key: str, line: int) -> str:
    rows = pl.read_parquet(read_validated(workspace, key).rows_path)
    return str(rows.filter(pl.col("line") == line)["row_sha256"].item())


def test_a_model_is_made_of_all_files_back_to_the_base_model(world: World) -> None:
    model = rows_of(world.workspace, world.second)

    assert [ancestor.checkpoint for ancestor in model.descent] == [world.second.name, world.first.name]
    assert (model.base_weights_sha256, model.fault) == (world.first.base_weights_sha256, None)
    assert model.rows == 2 * ROWS
    (b,), (a,) = model.descent[0].datasets, model.descent[1].datasets
    assert (a.key, a.rows, a.generator) == (world.a, ROWS, "manual@?")
    assert a.file_sha256 == sha256_file(world.files / "a.jsonl")
    assert a.lines == ((1, BAD_LINE - 1), (BAD_LINE + 1, ROWS + 1)), "the rejected line is not among them"
    assert (b.generator, b.lines) == ("curriculum@1.0.0", ((1, ROWS),))
    json.dumps(model.to_json())


def test_a_checkpoint_is_found_by_name_by_step_by_path_and_by_its_weights(world: World) -> None:
    first = world.first
    names = first.name, f"checkpoint-{first.step}", str(first.folder), f"{first.folder}/", first.weights_sha256[:8]
    for wanted in names:
        assert find_checkpoint(world.workspace, wanted).name == world.first.name


@pytest.mark.parametrize("wanted", ["checkpoint-999", "", "ffffffff"])
def test_what_is_no_checkpoint_is_refused_with_those_that_are(world: World, wanted: str) -> None:
    with pytest.raises(SettingsError, match=world.second.name):
        find_checkpoint(world.workspace, wanted)


def test_a_row_is_seen_by_what_was_trained_on_it_and_by_what_descends_from_that(world: World) -> None:
    found = trace(world.workspace, f"{world.a}:2")

    assert [(seen.checkpoint, seen.how, seen.through) for seen in found.checkpoints] == [
        (world.first.name, "trained", world.first.name),
        (world.second.name, "descent", world.first.name),
    ]
    assert not any(seen.doubt for seen in found.checkpoints)
    assert found.deployed == world.second.name


def test_a_row_of_the_later_file_was_not_seen_by_the_earlier_checkpoint(world: World) -> None:
    found = trace(world.workspace, f"{world.b}:1")

    assert [(seen.checkpoint, seen.how) for seen in found.checkpoints] == [(world.second.name, "trained")]


def test_a_file_a_dataset_and_a_hash_name_the_same_row(world: World) -> None:
    sha256 = row_hash(world, world.a, 3)
    answers = [
        trace(world.workspace, wanted)
        for wanted in (f"{world.files / 'a.jsonl'}:3", f"{world.a}:3", sha256, sha256[:8].upper())
    ]

    assert {answer.row.row_sha256 for answer in answers} == {sha256}
    assert all(answer == answers[0] for answer in answers)


def test_a_row_with_other_metadata_in_a_file_that_was_never_taken_in_is_the_same_row(
    world: World, tmp_path: Path
) -> None:
    row = json.loads((world.files / "a.jsonl").read_text().splitlines()[4])
    (tmp_path / "mine.jsonl").write_text(json.dumps({"metadata": {"mine": 1}, "messages": row["messages"]}))

    found = trace(world.workspace, f"{tmp_path / 'mine.jsonl'}:1")

    assert [(place.dataset, place.line) for place in found.row.accepted] == [(world.a, 5)]


def test_a_row_in_two_datasets_is_seen_through_the_trained_one(world: World) -> None:
    found = trace(world.workspace, f"{world.c}:1")

    assert {(place.dataset, place.line) for place in found.row.accepted} == {(world.a, 1), (world.c, 1)}
    assert {seen.dataset for seen in found.checkpoints} == {world.a}


def test_a_row_in_several_datasets_of_a_checkpoint_is_seen_through_them_all(world: World, own: Workspace) -> None:
    train_on_c_too(own, world)

    found = trace(own, f"{world.a}:1")

    assert [(seen.how, seen.datasets) for seen in found.checkpoints] == [
        ("trained", (world.a, world.c)),
        ("descent", (world.a, world.c)),
    ]
    assert {seen.datasets for seen in trace(own, f"{world.a}:4").checkpoints} == {(world.a,)}
    assert {seen.datasets for seen in trace(own, f"{world.c}:2").checkpoints} == {(world.c,)}


def test_of_several_datasets_those_whose_rows_of_then_are_known_are_named(world: World, own: Workspace) -> None:
    train_on_c_too(own, world)
    for key, named in ((world.c, (world.a,)), (world.a, (world.a, world.c))):
        manifest = own.datasets / key / "validated" / "manifest.json"
        manifest.write_text(manifest.read_text().replace(read_validated(own, key).rows_sha256, "f" * 64))

        found = trace(own, f"{world.a}:1")

        assert {seen.datasets for seen in found.checkpoints} == {named}
        assert {seen.doubt for seen in found.checkpoints} == {None if named == (world.a,) else CHANGED}


def test_a_row_that_was_validated_and_not_trained_on_is_seen_by_nobody(world: World) -> None:
    found = trace(world.workspace, f"{world.c}:2")

    assert (len(found.row.accepted), found.checkpoints, found.deployed) == (1, (), None)


@pytest.mark.parametrize("by", ["file", "key"])
def test_a_rejected_row_is_answered_with_the_rule_and_what_was_seen(world: World, by: str) -> None:
    name = str(world.files / "a.jsonl") if by == "file" else world.a
    found = trace(world.workspace, f"{name}:{BAD_LINE}")

    (rejected,) = found.row.rejected
    assert (rejected.dataset, rejected.line) == (world.a, BAD_LINE)
    assert rejected.rule and rejected.detail
    assert (found.row.accepted, found.checkpoints) == ((), ())


def test_a_rejected_row_is_found_by_its_hash(world: World) -> None:
    sha256 = find_row(world.workspace, f"{world.a}:{BAD_LINE}", MAX_BYTES).row_sha256
    assert sha256 is not None

    found = find_row(world.workspace, sha256[:12], MAX_BYTES)

    assert [(entry.dataset, entry.line) for entry in found.rejected] == [(world.a, BAD_LINE)]


def test_a_line_that_is_no_row_says_so(world: World) -> None:
    found = find_row(world.workspace, f"{world.refused}:2", MAX_BYTES)

    assert found.row_sha256 is None
    assert found.note is not None and found.note.startswith("line 2 is no row")
    assert len(found.rejected) == 1


def test_a_good_row_of_a_refused_file_is_answered_with_the_refusal(world: World) -> None:
    found = find_row(world.workspace, f"{world.refused}:1", MAX_BYTES)

    assert (found.accepted, found.rejected) == ((), ())
    assert found.note is not None and "its file was refused" in found.note


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("nothing.jsonl:3", "neither a file nor the key"),
        ("abc", "names no row"),
        ("0123456789abcdef", "no accepted and no rejected row"),
    ],
)
def test_what_names_no_row_is_refused(world: World, wanted: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        find_row(world.workspace, wanted, MAX_BYTES)


def test_a_line_that_is_not_there_is_refused(world: World) -> None:
    with pytest.raises(SettingsError, match="has no line 999"):
        find_row(world.workspace, f"{world.a}:999", MAX_BYTES)


def test_rows_of_then_are_not_known_after_another_validation(world: World, own: Workspace) -> None:
    manifest = own.datasets / world.a / "validated" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(read_validated(own, world.a).rows_sha256, "f" * 64))

    (a,) = rows_of(own, world.second).descent[1].datasets
    assert a.lines == () and a.fault is not None and "validated again" in a.fault
    assert [seen.doubt for seen in trace(own, f"{world.a}:2").checkpoints] == [CHANGED, CHANGED]
    assert len(trace(own, f"{world.a}:{BAD_LINE}").checkpoints) == 2, "it was perhaps accepted then"


UNREGISTERED = '{"generator_id": "nobody"}'
UNREADABLE = '{"generator_id": '
OTHER_SCHEMA = '{"schema_id": "completion_v1"}'


@pytest.mark.parametrize("sidecar", [UNREGISTERED, UNREADABLE, OTHER_SCHEMA])
def test_a_row_of_a_dataset_that_the_spec_gate_refused_since_was_still_trained_on(
    world: World, own: Workspace, sidecar: str
) -> None:
    refuse(own, world.a, sidecar)

    sha256 = row_hash(world, world.a, 2)
    for wanted in (f"{world.a}:2", f"{world.files / 'a.jsonl'}:2", sha256):
        found = trace(own, wanted)
        assert found.row.row_sha256 == sha256
        assert [(place.line, place.since) for place in found.row.accepted if place.dataset == world.a] == [
            (2, "withdrawn")
        ]
        assert [(seen.checkpoint, seen.doubt) for seen in found.checkpoints] == [
            (world.first.name, None),
            (world.second.name, None),
        ]
        assert found.deployed == world.second.name


def test_after_the_content_gate_refused_a_file_it_is_known_which_of_its_rows_were_trained_on(
    world: World, own: Workspace
) -> None:
    refuse(own, world.a, max_rejected_share=0.0)

    good, bad = trace(own, f"{world.a}:1"), trace(own, f"{world.a}:{BAD_LINE}")

    assert good.row.note is not None and "its file was refused" in good.row.note
    assert [place.since for place in good.row.accepted if place.dataset == world.a] == ["withdrawn"]
    assert [(seen.checkpoint, seen.doubt) for seen in good.checkpoints] == [
        (world.first.name, None),
        (world.second.name, None),
    ]
    assert (len(bad.row.rejected), bad.row.accepted, bad.checkpoints) == (1, (), ())


def test_a_model_that_was_trained_on_what_was_withdrawn_since_is_still_made_of_it(world: World, own: Workspace) -> None:
    refuse(own, world.b, UNREGISTERED)

    (b,) = rows_of(own, world.second).descent[0].datasets

    assert (b.since, b.fault) == ("withdrawn", None)
    assert (b.generator, b.lines) == ("curriculum@1.0.0", ((1, ROWS),))


def test_rows_that_are_neither_validated_nor_withdrawn_any_more_were_perhaps_trained_on(
    world: World, own: Workspace
) -> None:
    refuse(own, world.a, UNREGISTERED)
    shutil.rmtree(own.quarantine / world.a / "withdrawn")

    assert [seen.doubt for seen in trace(own, f"{world.a}:2").checkpoints] == [CHANGED, CHANGED]
    (a,) = rows_of(own, world.second).descent[1].datasets
    assert (a.since, a.lines) == (None, ()) and a.fault is not None


def test_rows_that_are_accepted_again_are_not_called_withdrawn(world: World, own: Workspace) -> None:
    refuse(own, world.b, UNREGISTERED)
    (kept,) = (own.quarantine / world.b / "withdrawn").iterdir()
    shutil.copytree(kept, own.datasets / world.b / "validated")

    assert trace(own, f"{world.b}:1") == trace(world.workspace, f"{world.b}:1")
    assert rows_of(own, world.second) == rows_of(world.workspace, world.second)


def test_a_copy_of_a_file_is_hashed_by_the_schema_of_its_dataset(own: Workspace, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": [{**turns[0], "content": f"q {n}"}, turns[1]], "system_prompt": "S"} for n in range(20)]
    text = "".join(f"{line}\n" for line in [*map(json.dumps, rows), '{"messages": []}'])
    (own.inbox / "x.jsonl").write_text(text)
    key = validate(own, "x.jsonl", '{"schema_id": "syllo_v1"}')
    (tmp_path / "copy.jsonl").write_text(text)
    (tmp_path / "copy.jsonl.gz").write_bytes(gzip.compress(text.encode()))

    for line in (3, 21):
        found = trace(own, f"{key}:{line}")
        assert found.row.accepted or found.row.rejected
        assert trace(own, f"{tmp_path / 'copy.jsonl'}:{line}") == found
        assert trace(own, f"{tmp_path / 'copy.jsonl.gz'}:{line}") == found


def test_a_dataset_and_a_parent_that_are_gone_are_named(world: World, own: Workspace) -> None:
    shutil.rmtree(own.datasets / world.b)
    shutil.rmtree(own.checkpoints / world.first.name)

    model = rows_of(own, find_checkpoint(own, world.second.name))

    assert model.fault is not None and world.first.name in model.fault
    ((b,),) = (ancestor.datasets for ancestor in model.descent)
    assert (b.key, b.rows) == (world.b, ROWS)
    assert b.fault is not None and b.file_sha256 is None


def test_rows_that_others_replaced_since_are_still_known_to_the_line(world: World, own: Workspace) -> None:
    before = rows_of(own, world.second).descent[1].datasets[0]
    line = accept_fewer(own, world.a)

    (a,) = rows_of(own, world.second).descent[1].datasets
    assert (a.lines, a.fault, a.since) == (before.lines, None, "replaced")
    left_out, kept = trace(own, f"{world.a}:{line}"), trace(own, f"{world.a}:{line % BAD_LINE + 1}")
    assert [(place.line, place.since) for place in left_out.row.accepted if place.dataset == world.a] == [
        (line, "replaced")
    ]
    for found in (left_out, kept, trace(own, row_hash(world, world.a, line))):
        assert [(seen.checkpoint, seen.doubt) for seen in found.checkpoints] == [
            (world.first.name, None),
            (world.second.name, None),
        ]
    assert trace(own, f"{world.a}:{BAD_LINE}").checkpoints == (), "no version of the rows had it"


def test_rows_that_were_replaced_before_the_dataset_was_refused_are_still_known(world: World, own: Workspace) -> None:
    accept_fewer(own, world.a)
    refuse(own, world.a, UNREGISTERED)

    (a,) = rows_of(own, world.second).descent[1].datasets
    assert (a.since, a.fault) == ("withdrawn", None)
    assert a.lines == rows_of(world.workspace, world.second).descent[1].datasets[0].lines
    assert not any(seen.doubt for seen in trace(own, f"{world.a}:2").checkpoints)


def test_a_dataset_that_is_gone_is_still_known_by_the_rows_that_were_withdrawn(world: World, own: Workspace) -> None:
    refuse(own, world.b, UNREGISTERED)
    shutil.rmtree(own.datasets / world.b)

    (b,) = rows_of(own, world.second).descent[0].datasets

    assert b.fault is not None and world.b in b.fault
    assert (b.generator, b.lines) == ("curriculum@1.0.0", ((1, ROWS),))
    assert b.file_sha256 == sha256_file(world.files / "b.jsonl")


def test_a_checkpoint_whose_parent_is_gone_perhaps_saw_any_row(world: World, own: Workspace) -> None:
    shutil.rmtree(own.checkpoints / world.first.name)

    for line in (f"{world.a}:2", f"{world.a}:{BAD_LINE}", f"{world.c}:2"):
        found = trace(own, line)
        (seen,) = found.checkpoints
        assert (seen.checkpoint, seen.how, seen.dataset) == (world.second.name, "descent", None)
        assert (seen.through, seen.doubt) == (world.first.name, GONE.format(world.first.name))
        assert found.deployed == world.second.name
    (trained,) = trace(own, f"{world.b}:1").checkpoints
    assert (trained.how, trained.dataset, trained.doubt) == ("trained", world.b, None), "it was trained on it itself"


def test_a_row_that_was_trained_on_again_is_known_although_the_first_training_is_gone(
    world: World, own: Workspace
) -> None:
    (again,) = rows_of(own, world.second).descent[0].replayed
    assert (again.key, again.rows) == (world.a, world.second.manifest["replay"][0]["rows"])
    replayed = pl.read_parquet(own.checkpoints / world.second.name / "replay.parquet")["row_sha256"]
    shutil.rmtree(own.checkpoints / world.first.name)

    (seen,) = trace(own, replayed[0]).checkpoints
    assert (seen.checkpoint, seen.how, seen.dataset, seen.doubt) == (world.second.name, "replayed", world.a, None)

    rows = pl.DataFrame({"key": [world.a, world.c, world.a], "row_sha256": [replayed[0]] * 3})
    rows.write_parquet(own.checkpoints / world.second.name / "replay.parquet")
    (seen,) = trace(own, replayed[0]).checkpoints
    assert (seen.how, seen.datasets) == ("replayed", (world.a, world.c))

    (own.checkpoints / world.second.name / "replay.parquet").unlink()
    (seen,) = trace(own, replayed[0]).checkpoints
    assert seen.doubt is not None and "replay.parquet, which names the rows that were replayed" in seen.doubt


def test_data_that_is_gone_is_passed_over_where_a_rejected_row_is_looked_for(world: World, own: Workspace) -> None:
    sha256 = find_row(own, f"{world.a}:{BAD_LINE}", MAX_BYTES).row_sha256
    assert sha256 is not None
    (own.datasets / world.refused / "data.jsonl").unlink()

    found = find_row(own, sha256, MAX_BYTES)

    assert [(entry.dataset, entry.line) for entry in found.rejected] == [(world.a, BAD_LINE)]
    assert found.note is not None and found.note.startswith("not looked at, and may hold it: ")
    assert world.refused in found.note
    with pytest.raises(SettingsError, match=f"no accepted and no rejected row .* may hold it: .*{world.refused}"):
        find_row(own, "0123456789abcdef", MAX_BYTES)


def test_a_line_that_was_accepted_under_another_schema_is_known_under_both(own: Workspace, world: World) -> None:
    rows = [{"text": f"t {n}", "messages": [{"role": "user", "content": f"q {n}"}, TURN]} for n in range(20)]
    (own.inbox / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    key = validate(own, "x.jsonl", '{"schema_id": "chat_sft_v1"}')
    chat = row_hash_in(own, key, 3)
    (own.datasets / key / "sidecar.json").write_text('{"schema_id": "completion_v1"}')
    validate_again(own, key)

    found = find_row(own, f"{key}:3", MAX_BYTES)

    assert found.row_sha256 == row_hash_in(own, key, 3) != chat
    assert [place.since for place in found.accepted] == [None, "replaced"]
    assert [place.since for place in find_row(own, chat, MAX_BYTES).accepted] == ["replaced"]


@pytest.mark.parametrize("path", ["datasets/{a}/validated/rows.parquet", "quarantine/{a}/rejected.jsonl"])
def test_what_cannot_be_read_is_a_sentence(world: World, own: Workspace, path: str) -> None:
    (own.home / path.format(a=world.a)).write_text("half")

    with pytest.raises(ArtifactInvalid):
        trace(own, f"{world.a}:2")


def test_nothing_deployed_is_said(world: World, own: Workspace) -> None:
    shutil.rmtree(own.serving / "deployed")

    assert trace(own, f"{world.a}:2").deployed is None


def test_a_dataset_of_the_world_is_what_was_dropped(world: World) -> None:
    assert find_dataset(world.workspace, world.a).sha256 == sha256_file(world.files / "a.jsonl")
