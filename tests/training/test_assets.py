"""The asset `checkpoints` on real rows: what its run config changes, and what its metadata says."""

import json
import logging
import re
from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from gpu_assets.datasets.assets import DATASETS
from gpu_assets.training.assets import build
from gpu_assets.training.line import list_checkpoints
from resources.platform import Platform
from resources.routing import Routing
from resources.workspace import Workspace
from tests.sensors.support import add_dataset, add_partitions

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

Run = Callable[[dict[str, object]], dg.ExecuteInProcessResult]
FEW_STEPS: dict[str, object] = {"batch_size": 16, "warmup_steps": 1, "optimizer": {"adamw": {"beta2": 0.9}}}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        add_partitions(instance, "a")
        yield instance


@pytest.fixture
def run(platform: Platform, workspace: Workspace, instance: dg.DagsterInstance) -> Run:
    """Trains on 64 rows with hyperparameters in the run's config; the run holds an asset that depends on it, too."""
    add_dataset(workspace, "a", rows=64)

    @dg.asset(deps=["checkpoints"], partitions_def=DATASETS, backfill_policy=dg.BackfillPolicy.single_run())
    def downstream() -> None:
        pass

    def materialize(hyperparams: dict[str, object]) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [*build(Routing(platform.settings.hosts)), downstream],
            instance=instance,
            resources={"platform": platform},
            partition_key="a",
            run_config={"ops": {"checkpoints": {"config": {"hyperparams": hyperparams}}}},
            raise_on_error=False,
        )

    return materialize


def test_hyperparams_of_the_run_decide_its_checkpoint_and_are_in_its_manifest(
    run: Run, platform: Platform, workspace: Workspace
) -> None:
    assert run(FEW_STEPS).success
    (checkpoint,) = list_checkpoints(workspace)
    used = checkpoint.manifest["hyperparams"]
    assert (checkpoint.step, used["batch_size"], used["optimizer"]["adamw"]["beta2"]) == (4, 16, 0.9)
    assert used["optimizer"]["adamw"]["beta1"] == platform.settings.hyperparams.optimizer.adamw.beta1


def test_what_a_run_was_asked_stays_with_its_plan_until_it_is_done(
    run: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("gpu_assets.training.loop.optimizer_step", crash)
        assert not run(FEW_STEPS).success
    (plan,) = workspace.training.glob("*/plan.json")
    assert json.loads(plan.read_text())["asked"] == {"hyperparams": FEW_STEPS}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"lr": 1}, "hyperparams.lr: unknown key"),
        ({"batch_size": 0}, "hyperparams.batch_size: .* greater than or equal to 1"),
        (
            {"max_length": 4096, "max_batch_tokens": 8192},
            "hyperparams.max_length is 4096, over locked.max_context_length",
        ),
    ],
)
def test_a_wrong_hyperparameter_of_the_run_fails_it_with_a_sentence(
    run: Run, workspace: Workspace, wrong: dict[str, object], sentence: str
) -> None:
    result = run(wrong)
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.error
    assert error is not None and re.search(sentence, error.message), error
    assert list_checkpoints(workspace) == []


def test_what_was_measured_is_metadata_in_numbers_and_one_picture(run: Run, workspace: Workspace) -> None:
    (event,) = run(FEW_STEPS).asset_materializations_for_node("checkpoints")
    values = {name: value.value for name, value in event.metadata.items()}
    (checkpoint,) = list_checkpoints(workspace)
    assert values["manifest_sha256"] == checkpoint.manifest_sha256
    for name in ("tokens_per_s", "supervised_tokens_per_s", "mfu", "gradient_norm", "peak_memory_bytes"):
        assert isinstance(values[name], float | int) and values[name] > 0, name
    assert values["learning_rate"] == pytest.approx(0.002)
    assert values["rollbacks"] == 0
    assert str(values["training_curves"]).startswith("![training](data:image/png;base64,")


def test_of_a_run_that_goes_well_dagster_misses_no_check_whether_it_trains_or_finds_the_dataset_trained(
    run: Run, instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    for result in (run(FEW_STEPS), run(FEW_STEPS)):
        assert result.success
        checks = result.get_asset_check_evaluations()
        assert {check.check_name: check.passed for check in checks} == dict.fromkeys(
            ("every_row_seen", "masks", "prefix_parity"), True
        )
        said = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.level >= logging.INFO]
        assert [sentence for sentence in said if "did not yield" in sentence] == []
    assert [entry.getMessage() for entry in caplog.records if "emitted no result" in entry.getMessage()] == []
