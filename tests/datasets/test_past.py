"""What a generator made before, of all datasets but those that cannot be read."""

from pathlib import Path

import pytest

from gpu_assets.datasets.past import GeneratorPast
from resources.artifacts import write_json
from resources.workspace import Workspace
from validators.statistics import HISTOGRAM_BINS

BINS = [1] * HISTOGRAM_BINS


def validated(workspace: Workspace, key: str, histogram: object = BINS) -> Path:
    """What the gates leave of a dataset of the generator `manual`, as far as it counts here."""
    folder = workspace.datasets / key / "validated"
    folder.mkdir(parents=True)
    write_json(folder / "report.json", {"stats": {} if histogram is None else {"length_histogram": histogram}})
    manifest = {
        "kind": "validated_dataset",
        "rows_sha256": key,
        "accepted": 1,
        "rejected": 0,
        "schema": "chat_sft_v1",
        "generator": {"id": "manual", "version": None},
    }
    write_json(folder / "manifest.json", manifest)
    return folder


def test_the_past_is_the_sum_of_all_datasets_but_one(workspace: Workspace) -> None:
    for key in ("a", "b", "c"):
        validated(workspace, key)
    validated(workspace, "not_measured", None)

    past = GeneratorPast(workspace)

    assert past.lengths("manual", excluding="a") == [2] * HISTOGRAM_BINS
    assert past.lengths("curriculum", excluding="a") is None
    assert past.unreadable == ()


def test_a_dataset_that_was_validated_again_or_refused_counts_as_that(workspace: Workspace) -> None:
    validated(workspace, "a")
    past = GeneratorPast(workspace)

    past.add("curriculum", "a", BINS)
    assert (past.lengths("manual", ""), past.lengths("curriculum", "")) == (None, BINS)
    past.forget("a")
    assert past.lengths("curriculum", "") is None


@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff", None])
def test_one_broken_dataset_is_passed_over_with_a_sentence(
    workspace: Workspace, name: str, content: bytes | None
) -> None:
    validated(workspace, "good")
    path = validated(workspace, "broken") / name
    path.unlink() if content is None else path.write_bytes(content)

    past = GeneratorPast(workspace)

    assert past.lengths("manual", excluding="") == BINS
    if (name, content) != ("manifest.json", None):  # what has no manifest is not there yet
        (sentence,) = past.unreadable
        assert "broken" in sentence


@pytest.mark.parametrize("histogram", [[1, 2], "1", {"a": 1}, [1.5] * HISTOGRAM_BINS])
def test_what_is_no_histogram_is_a_broken_report(workspace: Workspace, histogram: object) -> None:
    validated(workspace, "broken", histogram)

    past = GeneratorPast(workspace)

    assert past.lengths("manual", excluding="") is None
    (sentence,) = past.unreadable
    assert "length_histogram" in sentence and "validate broken again" in sentence
