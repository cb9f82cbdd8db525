"""Replay: a share of earlier rows, the same for the same plan, each as often as the run's own."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.rendering import Renderer
from gpu_assets.training.loop import train
from gpu_assets.training.records import Parent, ReplayedRows, TrainingDataset
from gpu_assets.training.replay import choose, earlier_keys
from gpu_assets.training.samples import fit_rows, load_samples
from resources.artifacts import weights_sha256
from serving.skills import binary
from tests.training.conftest import PlanFactory
from tests.training.test_loop import quiet

Write = Callable[..., TrainingDataset]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A validated dataset's Parquet with the hashes of its rows."""

    def write(key: str, count: int, seed: int, drop: int = 0) -> TrainingDataset:
        messages = [row["messages"] for row in binary.training_rows(1, count, random.Random(seed))]
        hashes = [hashlib.sha256(f"{seed}:{index}".encode()).hexdigest() for index in range(count)]
        frame = pl.DataFrame({"row_sha256": hashes, "messages": messages})[drop:]
        frame.write_parquet(tmp_path / f"{key}.parquet")
        return TrainingDataset(key, tmp_path / f"{key}.parquet", f"sha-of-{key}", frame.height)

    return write


def all_fit(rows: ReplayedRows) -> tuple[str, ...]:
    return rows.row_hashes


def chosen_rows(replay: tuple[ReplayedRows, ...]) -> set[str]:
    return {row for rows in replay for row in rows.row_hashes}


def test_so_many_rows_are_chosen_of_all_earlier_datasets(write: Write) -> None:
    replay = choose([write("a", 300, 1), write("b", 100, 2)], 80, "salt", all_fit)
    counts = {rows.key: rows.rows for rows in replay}
    assert sum(counts.values()) == 80
    assert 40 < counts["a"] < 75


def test_the_choice_follows_from_the_salt_and_not_from_the_order_of_files(write: Write) -> None:
    a, b = write("a", 60, 1), write("b", 60, 2)
    assert chosen_rows(choose([a, b], 20, "one", all_fit)) == chosen_rows(choose([b, a], 20, "one", all_fit))
    assert chosen_rows(choose([a, b], 20, "one", all_fit)) != chosen_rows(choose([a, b], 20, "two", all_fit))


def test_a_row_of_two_datasets_is_replayed_once(write: Write) -> None:
    replay = choose([write("a", 30, 1), write("again", 30, 1)], 60, "salt", all_fit)
    assert [(rows.key, rows.rows) for rows in replay] == [("a", 30)]


def test_where_fewer_rows_are_there_all_are_taken(write: Write) -> None:
    assert sum(rows.rows for rows in choose([write("a", 5, 1)], 50, "salt", all_fit)) == 5
    assert choose([], 50, "salt", all_fit) == ()


def test_rows_that_are_not_fit_are_passed_over_for_the_next(write: Write) -> None:
    a = write("a", 60, 1)
    first = chosen_rows(choose([a], 20, "salt", all_fit))
    unfit = sorted(first)[:5]

    found = chosen_rows(choose([a], 20, "salt", lambda rows: set(rows.row_hashes) - set(unfit)))

    assert len(found) == 20
    assert first - found == set(unfit)
    assert not chosen_rows(choose([a], 20, "salt", lambda rows: ()))


def test_a_row_is_fit_if_the_profile_takes_it_and_an_answer_begins_within_the_length(
    tmp_path: Path, tiny_folder: Path
) -> None:
    answers = {"canonical": "(+ 1 2)", "prose": "(see note 3) it is number 21"}
    messages = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": text}] for text in answers.values()]
    pl.DataFrame({"row_sha256": list(answers), "messages": messages}).write_parquet(tmp_path / "rows.parquet")
    rows = ReplayedRows("a", tmp_path / "rows.parquet", "sha", tuple(answers))
    plain, regime3 = (Renderer.load(tiny_folder, profile) for profile in ("plain", "regime3"))
    assert fit_rows(rows, plain, 512) == {"canonical", "prose"}
    assert fit_rows(rows, regime3, 512) == {"canonical"}
    assert not fit_rows(rows, plain, 2)


def test_rows_that_cannot_be_read_are_an_error_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"half")
    with pytest.raises(ArtifactInvalid, match="rows of a, .* cannot be read for replay.*replay_share to 0"):
        choose([TrainingDataset("a", tmp_path / "a.parquet", "sha", 1)], 1, "salt", all_fit)


def test_the_base_model_has_no_earlier_datasets(make_plan: PlanFactory) -> None:
    assert earlier_keys([], make_plan().parent) == []


def test_replayed_rows_follow_the_runs_own_and_are_no_rows_of_it(write: Write, tiny_folder: Path) -> None:
    renderer = Renderer.load(tiny_folder, "plain")
    own, earlier = write("own", 20, 1), write("earlier", 40, 2)
    replay = choose([earlier], 6, "salt", all_fit)
    samples = load_samples([own], renderer, 512, replay)
    assert (samples.num_rows, samples.replayed_rows, len(samples.sequences)) == (20, 6, 26)
    assert set(samples.sequences[20:]) <= set(load_samples([earlier], renderer, 512).sequences)
    assert samples.row_of == tuple(range(26))


def test_a_plan_with_replay_is_another_and_sees_every_row_as_often(
    make_plan: PlanFactory, write: Write, tmp_path: Path
) -> None:
    plan = make_plan(rows=40, num_epochs=2)
    replayed = replace(plan, replay=choose([write("earlier", 40, 2)], 8, "salt", all_fit))
    other = replace(plan, replay=choose([write("earlier", 40, 2)], 8, "other", all_fit))
    assert len({plan.plan_id, replayed.plan_id, other.plan_id}) == 3
    outcomes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        outcomes.append(train(replayed, tmp_path / name, None, quiet))
    assert outcomes[0].rows_seen == 40
    assert outcomes[0].times_seen == (2, 2)
    assert outcomes[0].steps == 2 * 6
    assert len({weights_sha256(outcome.model_folder) for outcome in outcomes}) == 1


def test_the_earlier_datasets_are_those_of_the_parent_and_its_ancestors() -> None:
    class Fake:
        """What `earlier_keys` reads of a checkpoint."""

        def __init__(self, weights: str, parent: str, *keys: str) -> None:
            self.weights_sha256, self.parent_sha256, self.dataset_keys = weights, parent, keys

    line = [Fake("1", "base", "a"), Fake("2", "1", "b", "a"), Fake("3", "1", "c"), Fake("4", "2", "d")]
    parent = Parent("checkpoint", "checkpoint-4", Path("4"), "4", "base", 4)
    assert earlier_keys(line, parent) == ["a", "b", "d"]  # type: ignore[arg-type]
