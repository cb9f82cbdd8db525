"""Judging runs: one a checkpoint, for what is trained and not scored."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_assets.datasets.records import reopen
from gpu_assets.evaluation.records import ScoringParameters
from gpu_assets.evaluation.score import score_folder
from gpu_assets.evaluation.sets import build_evaluation_set
from gpu_assets.settings import load_settings
from gpu_assets.training.line import find_trained, list_checkpoints
from gpu_assets.training.records import Checkpoint
from resources.artifacts import publishing, write_json
from resources.platform import Platform
from resources.workspace import Workspace
from sensors.judging import Judging, build_judging_sensor, plan_judging, scored_again, server_silence
from tests.sensors.support import add_dataset, add_failed_run, add_open_run, add_partitions, record
from tests.values import COMPARISON, make_checkpoint, make_score

# The plan

KEYS = [f"k{number:02}" for number in range(20)]


@st.composite
def situations(draw: st.DrawFn):
    order = draw(st.permutations(KEYS))
    named = draw(st.lists(st.sampled_from(KEYS), unique=True))
    checkpoint_of = {key: draw(st.sampled_from(["one", "two", "three"])) for key in named}
    return list(order), checkpoint_of, draw(st.sets(st.sampled_from(KEYS))), draw(st.sets(st.sampled_from(KEYS)))


@given(situations())
def test_every_checkpoint_has_one_run_over_exactly_what_waits_each_key_once(situation) -> None:
    order, checkpoint_of, in_open_runs, set_aside = situation
    planned = plan_judging(order, checkpoint_of, in_open_runs, set_aside)
    assert len({run.checkpoint for run in planned}) == len(planned)
    keys = {key: run.checkpoint for run in planned for key in (*run.covered, *run.also)}
    assert keys == {key: checkpoint_of[key] for key in set(checkpoint_of) - in_open_runs - set_aside}
    assert sum(len(run.covered) + len(run.also) for run in planned) == len(keys)


@given(situations())
def test_what_a_run_covers_is_an_unbroken_range_as_long_as_it_can_be(situation) -> None:
    order, checkpoint_of, in_open_runs, set_aside = situation
    for run in plan_judging(order, checkpoint_of, in_open_runs, set_aside):
        start = order.index(run.covered[0])
        end = start + len(run.covered)
        assert tuple(order[start:end]) == run.covered
        assert end == len(order) or order[end] not in run.also


def test_partitions_behind_refused_files_are_named_in_the_run_of_those_before() -> None:
    planned = plan_judging(["a", "b", "c", "d"], {"a": "one", "b": "two", "c": "one", "d": "one"}, set(), set())
    assert planned == [Judging("one", ("a",), ("c", "d")), Judging("two", ("b",))]


# What is scored again


@pytest.fixture
def published(workspace: Workspace) -> list[Checkpoint]:
    return [make_checkpoint(workspace, step, sequence=step) for step in (5, 9, 12, 15)]


def test_after_a_change_of_settings_the_champion_and_later_ones_are_scored_again(published: list[Checkpoint]) -> None:
    before = [make_score(found.step, 1, weights=found.weights_sha256, max_new_tokens=32) for found in published]
    champion = published[1].weights_sha256
    assert scored_again(published, before, COMPARISON, champion) == {found.name for found in published[1:]}
    now = [make_score(found.step, 1, weights=found.weights_sha256) for found in published[1:3]]
    assert scored_again(published, before + now, COMPARISON, champion) == {published[3].name}


@pytest.mark.parametrize("champion", [None, "weights that are gone"])
def test_without_a_champion_the_newest_is_enough(published: list[Checkpoint], champion: str | None) -> None:
    assert scored_again(published, [], COMPARISON, champion) == {published[-1].name}
    assert scored_again([], [], COMPARISON, champion) == set()


# The sensor

Tick = Callable[[], list[dg.RunRequest] | dg.SkipReason]


@pytest.fixture
def tick(platform: Platform, workspace: Workspace, instance: dg.DagsterInstance) -> Tick:
    sensor = build_judging_sensor(platform, "judge", silence=lambda _: None)
    return lambda: sensor(dg.build_sensor_context(instance=instance))  # type: ignore[return-value]


@pytest.fixture
def trained(workspace: Workspace, instance: dg.DagsterInstance):
    """Publishes a checkpoint on these datasets, whose partitions it adds, and records it."""

    def train(step: int, *keys: str) -> str:
        for key in keys:
            if not (workspace.datasets / key).exists():
                add_dataset(workspace, key)
        checkpoint = make_checkpoint(workspace, step, sequence=step, datasets=keys)
        add_partitions(instance, *keys)
        record(instance, "checkpoints", *keys)
        return checkpoint.name

    return train


@pytest.fixture
def scored(platform: Platform, instance: dg.DagsterInstance):
    """Writes the score of each of these datasets' newest checkpoint as the settings say now, and records it."""

    def score(*keys: str, max_new_tokens: int | None = None) -> None:
        evaluation = platform.settings.evaluation
        questions = build_evaluation_set(evaluation.level)
        limit = max_new_tokens or evaluation.max_new_tokens
        for key in keys:
            checkpoint = find_trained(list_checkpoints(platform.workspace), key)
            assert checkpoint is not None
            folder = score_folder(checkpoint, questions, ScoringParameters(limit, "digest"), platform.workspace)
            value = make_score(
                checkpoint.step,
                0,
                weights=checkpoint.weights_sha256,
                evaluation_set=questions.sha256,
                max_new_tokens=limit,
            )
            with publishing(folder) as temporary:
                write_json(temporary / "manifest.json", {"kind": "score", "format": 1, "score": value.to_json()})
        record(instance, "checkpoint_scores", *keys)

    return score


def ranges(result: list[dg.RunRequest] | dg.SkipReason) -> list[tuple[str, str, str]]:
    assert isinstance(result, list), result
    return [
        (
            request.tags["dagster/asset_partition_range_start"],
            request.tags["dagster/asset_partition_range_end"],
            request.tags["gpu_assets/checkpoint"],
        )
        for request in result
    ]


def add_judging_run(instance: dg.DagsterInstance, covered: str, also: list[str]) -> dg.DagsterRun:
    return instance.add_run(
        dg.DagsterRun(
            job_name="judge",
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": covered},
            run_config={"ops": {"checkpoint_scores": {"config": {"also": also}}}},
        )
    )


def reason(result: list[dg.RunRequest] | dg.SkipReason) -> str:
    assert isinstance(result, dg.SkipReason), result
    return result.skip_message or ""


def test_where_nothing_is_trained_the_tick_says_so(tick: Tick, instance: dg.DagsterInstance) -> None:
    assert reason(tick()) == "no checkpoint waits for its score"
    add_partitions(instance, "a")
    assert reason(tick()) == "no checkpoint waits for its score"


def test_each_checkpoint_is_one_run_over_its_range_and_its_datasets(tick: Tick, trained) -> None:
    first, second = trained(5, "a", "b"), trained(9, "c")
    assert ranges(tick()) == [("a", "b", first), ("c", "c", second)]


def test_one_checkpoint_is_one_run_though_a_refused_file_lies_between(tick: Tick, trained, instance) -> None:
    add_partitions(instance, "a", "refused", "b", "c")
    name = trained(5, "a", "b", "c")
    result = tick()
    assert ranges(result) == [("a", "a", name)]
    assert isinstance(result, list)
    assert result[0].run_config == {"ops": {"checkpoint_scores": {"config": {"also": ["b", "c"]}}}}


def test_what_an_open_run_names_besides_is_not_asked_for_again_and_counts_when_it_fails(
    tick: Tick, trained, instance
) -> None:
    add_partitions(instance, "a", "refused", "b")
    name = trained(5, "a", "b")
    run = add_judging_run(instance, "a", also=["b"])
    assert reason(tick()) == "no checkpoint waits for its score"
    instance.report_run_failed(run)
    assert ranges(tick()) == [("a", "a", name)]
    for _ in range(2):
        instance.report_run_failed(add_judging_run(instance, "a", also=["b"]))
    assert reason(tick()).endswith(": a, b")


def test_a_change_of_the_settings_has_the_newest_checkpoint_scored_again_once(
    tick: Tick, trained, scored, instance
) -> None:
    trained(5, "a")
    newest = trained(9, "b")
    scored("a", "b", max_new_tokens=8)
    assert ranges(tick()) == [("b", "b", newest)]
    for _ in range(3):
        add_failed_run(instance, "judge", "b")
    assert "set aside after failed runs" in reason(tick())
    scored("b")
    assert reason(tick()) == "no checkpoint waits for its score"


def test_what_is_scored_is_not_judged_again_until_it_is_trained_again(tick: Tick, trained, scored) -> None:
    trained(5, "a", "b")
    scored("a", "b")
    assert reason(tick()) == "no checkpoint waits for its score"
    again = trained(9, "b")
    assert ranges(tick()) == [("b", "b", again)]


@pytest.mark.parametrize("job", ["train", "judge"])
def test_partitions_in_an_open_run_are_left_out(tick: Tick, trained, instance, job: str) -> None:
    first, second = trained(5, "a"), trained(9, "b")
    add_open_run(instance, job, "a")
    assert ranges(tick()) == [("b", "b", second)]
    add_open_run(instance, job, "b", status=dg.DagsterRunStatus.NOT_STARTED)
    assert reason(tick()) == "no checkpoint waits for its score"
    assert first != second


def test_three_failed_runs_set_a_checkpoint_aside_until_its_dataset_is_opened_again(
    tick: Tick, trained, instance, workspace: Workspace
) -> None:
    first = trained(5, "a")
    for failures in range(3):
        assert ranges(tick()) == [("a", "a", first)], failures
        add_failed_run(instance, "judge", "a")
    assert reason(tick()) == (
        "no checkpoint waits for its score; set aside after failed runs, until `gpu-assets queue retry KEY`: a"
    )
    reopen(workspace.datasets / "a")
    assert ranges(tick()) == [("a", "a", first)]


def test_a_failure_that_another_try_cannot_mend_sets_aside_at_once(tick: Tick, trained, instance) -> None:
    trained(5, "a")
    add_failed_run(instance, "judge", "a", permanent=True)
    assert "set aside after failed runs" in reason(tick())


def test_while_the_server_is_silent_nothing_is_requested_and_the_tick_says_why(
    platform: Platform, trained, instance: dg.DagsterInstance
) -> None:
    trained(5, "a")
    sensor = build_judging_sensor(platform, "judge", silence=lambda _: "no connection; is it running?")
    result = sensor(dg.build_sensor_context(instance=instance))
    assert reason(result) == "1 checkpoints wait for their scores: no connection; is it running?"  # type: ignore[arg-type]


def test_a_server_that_is_not_running_is_silent(hosts_file: Path) -> None:
    assert "is it running?" in (server_silence(Platform(load_settings())) or "")


def test_a_checkpoint_without_a_manifest_is_not_judged(tick: Tick, workspace: Workspace, instance) -> None:
    add_dataset(workspace, "a")
    make_checkpoint(workspace, 5, sequence=1, datasets=("a",), has_manifest=False)
    add_partitions(instance, "a")
    record(instance, "checkpoints", "a")
    assert reason(tick()) == "no checkpoint waits for its score"


def test_of_two_checkpoints_on_a_dataset_the_one_that_was_published_last_is_judged(tick: Tick, trained) -> None:
    trained(10_000, "a")
    newest = trained(10_001, "a")
    assert ranges(tick()) == [("a", "a", newest)]
