"""The judging sensor: what is trained and not scored, one run a checkpoint's stretch of partitions.

Level-triggered like all sensors here. `plan_judging` is pure; `build_judging_sensor` reads, calls
it and requests runs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from gpu_assets.datasets.records import DATASETS_PARTITIONS, MAX_FAILURES, dataset_keys, find_dataset, open_since
from gpu_assets.deployment.decide import decide
from gpu_assets.deployment.records import Deployment
from gpu_assets.errors import ServiceError
from gpu_assets.evaluation.score import list_scores
from gpu_assets.evaluation.sets import build_evaluation_set
from gpu_assets.ranking.rank import rank_scores
from gpu_assets.training.line import list_checkpoints
from resources.platform import Platform
from resources.services import ServiceClient
from sensors.runs import AD_HOC_JOB, RANGE_END_TAG, RANGE_START_TAG, failed_attempts, open_partitions

TRAIN_JOB = "train"
HEALTH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Stretch:
    """Neighbouring partitions that name one checkpoint."""

    checkpoint: str
    keys: tuple[str, ...]


def plan_judging(
    order: Sequence[str],
    checkpoint_of: Mapping[str, str],
    in_open_runs: AbstractSet[str],
    set_aside: AbstractSet[str],
) -> list[Stretch]:
    """The stretches that wait, in the order in which partitions were added.

    Args:
        order: all partition keys, in the order in which they were added.
        checkpoint_of: the checkpoint that a partition names whose training is newer than its score.
        in_open_runs: partitions of queued or running runs that train or judge them.
        set_aside: partitions whose runs failed too often.
    """
    waits = {key for key in checkpoint_of if key not in in_open_runs | set_aside}
    return list(_stretches(order, checkpoint_of, waits))


def _stretches(order: Sequence[str], checkpoint_of: Mapping[str, str], waits: AbstractSet[str]) -> Iterator[Stretch]:
    current: list[str] = []
    for key in order:
        if current and (key not in waits or checkpoint_of[key] != checkpoint_of[current[0]]):
            yield Stretch(checkpoint_of[current[0]], tuple(current))
            current = []
        if key in waits:
            current.append(key)
    if current:
        yield Stretch(checkpoint_of[current[0]], tuple(current))


def server_silence(platform: Platform) -> str | None:
    """Why the inference server cannot score now, or None if it answers."""
    settings = platform.settings
    url = settings.hosts.url("inference", settings.hosts.host_id("inference"))
    with ServiceClient("inference server", url, timeout_s=HEALTH_TIMEOUT_S, max_retries=0) as client:
        try:
            client.get("/health", dict)
        except ServiceError as error:
            return str(error)
    return None


def build_judging_sensor(
    platform: Platform, job_name: str, silence: Callable[[Platform], str | None] = server_silence
) -> dg.SensorDefinition:
    """The sensor that starts judging runs, while the inference server is not silent."""

    @dg.sensor(
        name="judging_sensor",
        job_name=job_name,
        minimum_interval_seconds=2,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Scores, ranks and deploys what is trained and not scored.",
    )
    def judging_sensor(context: dg.SensorEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        instance = context.instance
        order = list(instance.get_dynamic_partitions(DATASETS_PARTITIONS))
        # Open runs first: one that ends in between has recorded what it materialized.
        in_open_runs = open_partitions(instance, [TRAIN_JOB, job_name, AD_HOC_JOB], order)
        newer, since = _trained_after_scored(instance, platform)
        failures = failed_attempts(instance, job_name, order, since)
        set_aside = {key for key, count in failures.items() if count >= MAX_FAILURES}
        stretches = plan_judging(
            order,
            {key: name for key, name in _checkpoint_names(platform).items() if key in newer},
            in_open_runs,
            set_aside,
        )
        if not stretches and not in_open_runs and promotion_waits(instance, platform, job_name):
            return [dg.RunRequest(asset_selection=[dg.AssetKey("ranking"), dg.AssetKey("deployed_model")])]
        if not stretches:
            tail = (
                f"; set aside after failed runs, until `gpu-assets queue retry KEY`: {', '.join(sorted(set_aside))}"
                if set_aside
                else ""
            )
            return dg.SkipReason(f"no checkpoint waits for its score{tail}")
        if (reason := silence(platform)) is not None:
            return dg.SkipReason(f"{len(stretches)} checkpoints wait for their scores: {reason}")
        return [_request(stretch) for stretch in stretches]

    return judging_sensor


def promotion_waits(instance: dg.DagsterInstance, platform: Platform, job_name: str) -> bool:
    """Whether a scored checkpoint should be served and is not: a run ended between its score and its deployment.

    After three such runs in a row that failed, a person is waited for.
    """
    ranked = rank_scores(
        list_scores(platform.workspace), build_evaluation_set(platform.settings.evaluation.level).sha256
    )
    deployed = Deployment.read(platform.workspace)
    if not decide(ranked, deployed, None if deployed is None else deployed.weights_sha256).deploy:
        return False
    newest = instance.get_runs(dg.RunsFilter(job_name=job_name), limit=MAX_FAILURES)
    has_failed = [run.status == dg.DagsterRunStatus.FAILURE for run in newest]
    return all(run.is_finished for run in newest) and not (len(newest) == MAX_FAILURES and all(has_failed))


def _trained_after_scored(instance: dg.DagsterInstance, platform: Platform) -> tuple[set[str], dict[str, datetime]]:
    """Partitions whose checkpoint is newer than their score, and since when failures to score it count."""
    trained, scored = (
        instance.event_log_storage.get_latest_storage_id_by_partition(
            dg.AssetKey(name), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        for name in ("checkpoints", "checkpoint_scores")
    )
    newer = {key for key, storage_id in trained.items() if storage_id > scored.get(key, -1)}
    return newer, {key: max(_recorded_at(instance, key), _opened_at(platform, key)) for key in newer}


def _opened_at(platform: Platform, key: str) -> datetime:
    """When a person opened the dataset again; long ago where its folder is gone, which scoring does not need."""
    if key not in dataset_keys(platform.workspace):
        return datetime.fromtimestamp(0, UTC)
    return open_since(find_dataset(platform.workspace, key))


def _recorded_at(instance: dg.DagsterInstance, key: str) -> datetime:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("checkpoints"), asset_partitions=[key]), limit=1
    ).records
    return datetime.fromtimestamp(records[0].timestamp, UTC)


def _checkpoint_names(platform: Platform) -> dict[str, str]:
    """The newest checkpoint that was trained on each dataset."""
    return {key: found.name for found in list_checkpoints(platform.workspace) for key in found.dataset_keys}


def _request(stretch: Stretch) -> dg.RunRequest:
    return dg.RunRequest(
        tags={
            RANGE_START_TAG: stretch.keys[0],
            RANGE_END_TAG: stretch.keys[-1],
            "gpu_assets/checkpoint": stretch.checkpoint,
        }
    )
