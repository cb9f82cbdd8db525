"""The line: only complete checkpoints, in the order of publication, with one head."""

import pytest

from gpu_assets.base_model.records import BaseModel
from gpu_assets.errors import SettingsError
from gpu_assets.training.line import find_trained, head_of, line_of, list_checkpoints, parent_at
from gpu_assets.training.records import Checkpoint, Parent, checkpoint_name
from resources.workspace import Workspace
from tests.values import make_checkpoint


def test_a_workspace_without_checkpoints_has_an_empty_list(workspace: Workspace) -> None:
    assert list_checkpoints(workspace) == []


def test_checkpoints_are_listed_as_published_and_never_by_name(workspace: Workspace) -> None:
    for step, sequence in [(10_000, 2), (9, 1), (200, 3)]:
        make_checkpoint(workspace, step, sequence)
    assert [checkpoint.step for checkpoint in list_checkpoints(workspace)] == [9, 10_000, 200]


def test_a_folder_without_a_manifest_is_no_checkpoint(workspace: Workspace) -> None:
    complete = make_checkpoint(workspace, 5, sequence=1)
    make_checkpoint(workspace, 9, sequence=2, has_manifest=False)
    (workspace.training / "plan" / "resume").mkdir(parents=True)
    assert list_checkpoints(workspace) == [complete]


@pytest.mark.parametrize("manifest", ['{"kind": "base_model"}', '{"kind": "checkpoint"}', "{"])
def test_a_broken_manifest_is_said_in_the_log_and_stops_no_other_checkpoint(
    workspace: Workspace, manifest: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = make_checkpoint(workspace, 5, sequence=1).folder
    (broken / "manifest.json").write_text(manifest)
    sound = make_checkpoint(workspace, 9, sequence=2)
    assert [checkpoint.name for checkpoint in list_checkpoints(workspace)] == [sound.name]
    assert str(broken) in caplog.text


def test_a_name_holds_the_step_and_the_beginning_of_the_weights() -> None:
    assert checkpoint_name(1200, "abcdef12" + "0" * 56) == "checkpoint-1200-abcdef12"


def test_training_begins_at_the_base_model_where_the_line_is_empty(base: BaseModel) -> None:
    assert parent_at(base, []) == Parent.of_base(base)


def test_training_goes_on_from_the_checkpoint_that_was_published_last(base: BaseModel, workspace: Workspace) -> None:
    make_checkpoint(workspace, 10_000, sequence=1)
    head = make_checkpoint(workspace, 9, sequence=2)
    parent = parent_at(base, list_checkpoints(workspace))
    assert (parent.kind, parent.name, parent.step) == ("checkpoint", head.name, 9)
    assert (parent.folder, parent.weights_sha256) == (head.folder, head.weights_sha256)


def test_training_can_go_on_from_a_checkpoint_by_its_weights(base: BaseModel, workspace: Workspace) -> None:
    first = make_checkpoint(workspace, 5, sequence=1)
    make_checkpoint(workspace, 9, sequence=2)
    assert parent_at(base, list_checkpoints(workspace), first.weights_sha256).name == first.name


def test_weights_that_no_checkpoint_of_the_line_has_are_refused(base: BaseModel, workspace: Workspace) -> None:
    only = make_checkpoint(workspace, 5, sequence=1)
    with pytest.raises(SettingsError, match=rf"has the weights ffffffff; the line holds \['{only.name}'\]"):
        parent_at(base, list_checkpoints(workspace), "f" * 64)


def test_a_line_holds_what_began_at_its_base_model(base: BaseModel, workspace: Workspace) -> None:
    make_checkpoint(workspace, 5, sequence=1, base="another")
    own = make_checkpoint(workspace, 5, sequence=2, base=base.weights_sha256)
    assert line_of(base.weights_sha256, list_checkpoints(workspace)) == [own]
    assert line_of("a third", list_checkpoints(workspace)) == []


def test_the_head_of_a_line_is_its_newest_checkpoint_or_its_base_model(workspace: Workspace) -> None:
    make_checkpoint(workspace, 9, sequence=1, base="one")
    head = make_checkpoint(workspace, 5, sequence=2, base="one")
    make_checkpoint(workspace, 7, sequence=3, base="other")
    published = list_checkpoints(workspace)
    assert (head_of("one", published), head_of("a third", published)) == (head.weights_sha256, "a third")


def test_of_two_checkpoints_on_a_dataset_the_later_is_found(workspace: Workspace) -> None:
    make_checkpoint(workspace, 10_000, sequence=1, datasets=("a", "b"))
    later = make_checkpoint(workspace, 9, sequence=2, datasets=("b",))
    line: list[Checkpoint] = list_checkpoints(workspace)
    found = {key: find_trained(line, key) for key in ("a", "b", "c")}
    assert found == {"a": line[0], "b": later, "c": None}
