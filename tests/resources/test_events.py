"""Which failures of a run another try may mend."""

import dagster as dg
import pytest

from gpu_assets.errors import (
    DiskFull,
    PlatformError,
    ServiceAuthError,
    ServiceHttpError,
    ServiceUnavailable,
    TrainingDiverged,
    TrainingStopped,
)
from resources.events import PERMANENT_TAG, WANTED_BYTES_TAG, failure

PASSING = [
    ServiceUnavailable("no answer"),
    TrainingStopped("a signal"),
    *(ServiceHttpError("x", status=status, body="") for status in (404, 409, 429)),
]
STAYING = [ServiceHttpError("x", status=400, body=""), ServiceAuthError("x"), TrainingDiverged("nan")]


def fail_with(error: PlatformError, instance: dg.DagsterInstance) -> dg.DagsterRun:
    @dg.asset
    def failing(context: dg.AssetExecutionContext) -> None:
        raise failure(context, error)

    result = dg.materialize([failing], instance=instance, raise_on_error=False)
    assert not result.success
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run


@pytest.mark.parametrize("error", PASSING)
def test_a_service_that_is_busy_or_was_started_again_is_asked_again_and_a_stopped_training_goes_on(
    error: PlatformError,
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert PERMANENT_TAG not in fail_with(error, instance).tags


@pytest.mark.parametrize("error", STAYING)
def test_what_comes_again_until_a_person_changes_something_is_tagged(error: PlatformError) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert fail_with(error, instance).tags[PERMANENT_TAG] == type(error).__name__


def test_a_full_disk_is_tagged_with_the_room_that_is_waited_for() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        tags = fail_with(DiskFull("full", wanted=42), instance).tags
    assert (tags[WANTED_BYTES_TAG], PERMANENT_TAG in tags) == ("42", False)
