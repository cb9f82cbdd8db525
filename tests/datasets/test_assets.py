"""The assets of taking in: a run over a range records each file for itself, and one bad file stops no other."""

import json
import logging
import random
import warnings
from collections.abc import Callable, Iterator

import dagster as dg
import pytest
from matplotlib.figure import Figure

from gpu_assets.datasets.assets import CHECKS, CODE_VERSION, build
from gpu_assets.datasets.parity import PARITY_CHECK
from gpu_assets.datasets.records import find_dataset
from gpu_assets.datasets.validated import read_validated
from gpu_assets.datasets.validations import VALIDATION_METADATA, Validation
from gpu_assets.rendering import Renderer
from gpu_assets.settings import GeneratorPolicy, SpecPolicy
from resources.platform import Platform
from resources.routing import Routing
from resources.workspace import Workspace
from serving.skills import binary
from tests.datasets.conftest import Tick

Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def keys(workspace: Workspace, instance: dg.DagsterInstance, tick: Tick) -> list[str]:
    """Three files, of which the second has one bad row in three; a partition each, in the order of names."""
    for number, name in enumerate(("a", "b", "c")):
        rows = [json.dumps(row) for row in binary.training_rows(1, 20, random.Random(number))]
        bad = ["{"] * 10 if name == "b" else []
        (workspace.inbox / f"{name}.jsonl").write_text("\n".join([*rows, *bad]) + "\n")
    keys = sorted(tick().taken_in)
    instance.add_dynamic_partitions("datasets", keys)
    return keys


@pytest.fixture
def run(platform: Platform, instance: dg.DagsterInstance) -> Run:
    """One run over the range from the first to the last key."""

    def materialize(keys: list[str], selection: list[str] | None = None) -> dg.ExecuteInProcessResult:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # of backfill_policy
            assets = build(Routing(platform.settings.hosts))
        return dg.materialize(
            assets,
            instance=instance,
            resources={"platform": platform},
            selection=selection,
            tags={"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]},
            raise_on_error=False,
        )

    return materialize


def materialization(instance: dg.DagsterInstance, asset: str, key: str) -> dg.AssetMaterialization | None:
    """The newest of a partition."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[key]), limit=1
    ).records
    return records[0].asset_materialization if records else None


def faults(instance: dg.DagsterInstance, check: str) -> dict[str, str | None]:
    """What the newest evaluation of a check says of each dataset that it looked at."""
    asset = "datasets" if check == "spec_gate" else "validated_datasets"
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    (newest,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert newest.event is not None and newest.event.dagster_event is not None
    evaluation = newest.event.dagster_event.asset_check_evaluation_data
    found = evaluation.metadata["faults"].value
    assert evaluation.passed == (not found)
    return {dataset: found.get(dataset) for dataset in evaluation.metadata["partitions"].value}


def test_a_bad_file_fails_the_run_with_its_sentence_and_the_others_are_recorded(
    keys: list[str], run: Run, instance: dg.DagsterInstance, workspace: Workspace
) -> None:
    result = run(keys)
    good, bad = [keys[0], keys[2]], keys[1]
    assert not result.success
    assert instance.get_materialized_partitions(dg.AssetKey("datasets")) == set(keys)
    assert instance.get_materialized_partitions(dg.AssetKey("validated_datasets")) == set(good)
    (failure,) = result.get_step_failure_events()
    error = failure.step_failure_data.error
    assert error is not None
    assert "1 of 3 files are refused, the others went on" in error.message
    assert f"{bad}: " in error.message and "10 of 30 rows rejected" in error.message
    reason = json.loads((workspace.quarantine / bad / "reason.json").read_text())
    assert reason["sentence"] in error.message


def test_each_partition_has_its_own_data_version_and_metadata(
    keys: list[str], run: Run, instance: dg.DagsterInstance, workspace: Workspace
) -> None:
    run(keys)
    versions = set()
    for key in (keys[0], keys[2]):
        dataset, validated = find_dataset(workspace, key), read_validated(workspace, key)
        taken_in = materialization(instance, "datasets", key)
        passed = materialization(instance, "validated_datasets", key)
        assert taken_in is not None and passed is not None and taken_in.tags and passed.tags
        assert taken_in.tags["dagster/data_version"] == dataset.sha256
        assert passed.tags["dagster/data_version"] == validated.rows_sha256
        assert taken_in.metadata["original_name"].value == dataset.original_name
        assert passed.metadata["dagster/row_count"].value == 20
        assert passed.metadata["rejected"].value == 0
        assert passed.metadata["path"].value == str(validated.rows_path)
        assert passed.metadata["dataset_sha256"].value == dataset.sha256
        versions.add(validated.rows_sha256)
    assert len(versions) == 2


def test_a_check_holds_the_verdict_on_every_file_of_the_run(keys: list[str], run: Run, instance) -> None:
    run(keys)
    content = faults(instance, "content_gate")
    assert {key: fault is None for key, fault in content.items()} == dict(zip(keys, (True, False, True), strict=True))
    assert "10 of 30 rows rejected" in (content[keys[1]] or "")
    assert faults(instance, "spec_gate") == dict.fromkeys(keys)
    for check in ("disjoint_from_evaluation", PARITY_CHECK):
        assert faults(instance, check) == {keys[0]: None, keys[2]: None}


def test_of_a_run_that_goes_well_dagster_misses_no_check(keys: list[str], run: Run, instance) -> None:
    result = run([keys[0]])
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == dict.fromkeys(
        CHECKS, True
    )
    said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert [sentence for sentence in said if "did not yield" in sentence] == []


def test_rows_that_would_be_trained_after_other_prompts_than_the_servers_are_not_validated(
    keys: list[str], run: Run, instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Renderer.prompt_ids
    monkeypatch.setattr(Renderer, "prompt_ids", lambda self, messages: served(self, messages)[1:])
    result = run([keys[0]])
    assert not result.success
    assert "accepted row 1: turn 2 is trained after" in (faults(instance, PARITY_CHECK)[keys[0]] or "")
    assert instance.get_materialized_partitions(dg.AssetKey("validated_datasets")) == set()


def test_a_range_of_good_files_is_one_run_that_succeeds(keys: list[str], run: Run, instance) -> None:
    assert run([keys[0]]).success
    assert instance.get_materialized_partitions(dg.AssetKey("validated_datasets")) == {keys[0]}


def test_materializing_again_gives_the_same_data_versions(keys: list[str], run: Run, instance) -> None:
    versions = []
    for _ in range(2):
        assert run([keys[0]]).success
        found = materialization(instance, "validated_datasets", keys[0])
        assert found is not None and found.tags
        versions.append(found.tags["dagster/data_version"])
    assert versions[0] == versions[1]


def test_datasets_alone_can_be_materialized(keys: list[str], run: Run, instance) -> None:
    assert run(keys, selection=["datasets"]).success
    assert instance.get_materialized_partitions(dg.AssetKey("datasets")) == set(keys)
    assert instance.get_materialized_partitions(dg.AssetKey("validated_datasets")) == set()


def test_an_entry_that_the_inbox_refused_fails_with_its_sentence_and_is_no_dataset(
    run: Run, instance: dg.DagsterInstance, workspace: Workspace, tick: Tick
) -> None:
    (workspace.inbox / "folder").mkdir()
    (key,) = tick().refused
    instance.add_dynamic_partitions("datasets", [key])
    result = run([key])
    assert not result.success
    assert "folder is a directory" in (faults(instance, "spec_gate")[key] or "")
    assert instance.get_materialized_partitions(dg.AssetKey("datasets")) == set()


def test_data_that_was_changed_is_refused_and_the_others_go_on(
    keys: list[str], run: Run, instance: dg.DagsterInstance, workspace: Workspace
) -> None:
    path = find_dataset(workspace, keys[0]).data_path
    path.chmod(0o644)
    path.write_text("changed\n")
    assert not run(keys).success
    assert instance.get_materialized_partitions(dg.AssetKey("validated_datasets")) == {keys[2]}
    assert instance.get_materialized_partitions(dg.AssetKey("datasets")) == {keys[1], keys[2]}


def test_data_that_is_gone_costs_the_others_nothing(keys: list[str], run: Run, instance, workspace: Workspace) -> None:
    find_dataset(workspace, keys[0]).data_path.unlink()
    (failure,) = run(keys).get_step_failure_events()
    assert "cannot be read (No such file or directory)" in failure.step_failure_data.error.message
    assert instance.get_materialized_partitions(dg.AssetKey("validated_datasets")) == {keys[2]}


def test_the_failure_says_what_can_mend_each_file(keys: list[str], run: Run) -> None:
    (failure,) = run(keys).get_step_failure_events()
    assert "Drop a corrected b.jsonl into the inbox" in failure.step_failure_data.error.message


def test_without_a_base_model_the_run_fails_with_its_sentence(
    keys: list[str], platform: Platform, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(platform.settings.__dict__, "model_path", "nowhere")
    (failure,) = run(keys).get_step_failure_events()
    assert "no file was looked at: model_path is 'nowhere', but" in failure.step_failure_data.error.message


def test_every_validation_is_observed_whether_it_passed_or_not(
    keys: list[str], run: Run, instance: dg.DagsterInstance
) -> None:
    run(keys)
    observed = instance.fetch_observations(dg.AssetKey("validated_datasets"), limit=10).records
    found = [
        Validation.from_json(record.asset_observation.metadata[VALIDATION_METADATA].value)
        for record in observed
        if record.asset_observation is not None
    ]

    assert {one.key: one.passed for one in found} == {keys[0]: True, keys[1]: False, keys[2]: True}
    (refused,) = (one for one in found if not one.passed)
    assert (refused.rows, refused.accepted, refused.rejected) == (30, 20, 10)
    assert refused.rejected_by_rule == {"invalid_json": 10}
    assert refused.generator_id == "manual" and refused.generator_inferred
    assert all(one.tokens > one.supervised_tokens > 0 for one in found)


def test_a_dataset_whose_report_is_broken_stops_no_other_and_is_named_in_the_run(
    keys: list[str], run: Run, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    run(keys)
    (workspace.datasets / keys[0] / "validated" / "report.json").write_text("{")

    again = run([keys[2]])

    assert again.success
    warnings = [entry.user_message for entry in instance.all_logs(again.run_id) if entry.level == logging.WARNING]
    (sentence,) = (text for text in warnings if "left out" in text)
    assert keys[0] in sentence and "report.json cannot be read" in sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"level": "quick"},
        {"specs": {"chat_sft_v1": SpecPolicy(level="quick")}},
        {"generators": {"manual": GeneratorPolicy(level="quick")}},
    ],
    ids=["all", "spec", "generator"],
)
def test_at_level_quick_there_is_no_histogram_of_lengths(
    changes: dict[str, object],
    keys: list[str],
    run: Run,
    instance: dg.DagsterInstance,
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick = platform.settings.validation.model_copy(update=changes)
    monkeypatch.setitem(platform.settings.__dict__, "validation", quick)

    assert run([keys[0]]).success

    passed = materialization(instance, "validated_datasets", keys[0])
    assert passed is not None and passed.metadata["dagster/row_count"].value == 20
    assert "lengths" not in passed.metadata


def test_a_dataset_that_cannot_be_described_stops_no_other(
    keys: list[str], run: Run, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = Figure.savefig, []

    def fail_once(figure: Figure, *arguments: object, **options: object) -> None:
        saved.append(figure)
        if len(saved) == 1:
            raise ValueError("no font")
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", fail_once)
    (failure,) = run(keys).get_step_failure_events()

    assert f"{keys[0]} passed both gates, but cannot be described: ValueError('no font')" in (
        failure.step_failure_data.error.message
    )
    assert instance.get_materialized_partitions(dg.AssetKey("validated_datasets")) == {keys[2]}
    assert faults(instance, "content_gate")[keys[2]] is None


def test_a_validated_dataset_names_the_version_of_the_gates(
    keys: list[str], run: Run, instance: dg.DagsterInstance
) -> None:
    run(keys)
    passed = materialization(instance, "validated_datasets", keys[0])
    assert passed is not None and passed.tags is not None
    assert passed.tags["dagster/code_version"] == CODE_VERSION
    assert "data_validator@" in CODE_VERSION and "spec_validator@" in CODE_VERSION
