"""The judging sensor: what is trained and not scored, one run a checkpoint.

Where the settings of scoring were changed, the champion and what was published after it are scored again:
the champion, since nothing replaces it before it has a score to be compared with, and the later ones, since
they are what could. Older ones have lost against it. Level-triggered like all sensors here. `plan_judging`
and `scored_again` are pure; `build_judging_sensor` reads, calls them and requests runs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from gpu_assets.datasets.records import DATASETS_PARTITIONS, MAX_FAILURES, dataset_keys, find_dataset, open_since
from gpu_assets.deployment.decide import decide
from gpu_assets.deployment.records import Deployment
from gpu_assets.errors import ServiceError
from gpu_assets.evaluation.records import Score
from gpu_assets.evaluation.score import list_scores
from gpu_assets.ranking.rank import Comparison, current_ranking
from gpu_assets.training.line import list_checkpoints
from gpu_assets.training.records import Checkpoint
from resources.deployed import read_deployed
from resources.platform import Platform
from resources.services import ServiceClient
from sensors.runs import (
    AD_HOC_JOB,
    OPEN,
    RANGE_END_TAG,
    RANGE_START_TAG,
    covered,
    failed_attempts,
    open_partitions,
)

TRAIN_JOB = "train"
CHECKPOINTS, SCORES = dg.AssetKey("checkpoints"), dg.AssetKey("checkpoint_scores")
HEALTH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Judging:
    """A run over the partitions that name one checkpoint.

    Dagster's ranges have no gaps, and everything in them is recorded; so the run covers the first neighbouring
    partitions, and its config names the others, which lie behind refused files, say.
    """

    checkpoint: str
    covered: tuple[str, ...]
    also: tuple[str, ...] = ()


def plan_judging(
    order: Sequence[str],
    checkpoint_of: Mapping[str, str],
    in_open_runs: AbstractSet[str],
    set_aside: AbstractSet[str],
) -> list[Judging]:
    """The runs that wait, one a checkpoint, in the order in which partitions were added.

    Args:
        order: all partition keys, in the order in which they were added.
        checkpoint_of: the checkpoint that a partition names, where it needs a score.
        in_open_runs: partitions of queued or running runs that train or judge them.
        set_aside: partitions whose runs failed too often.
    """
    places: dict[str, list[int]] = {}
    for place, key in enumerate(order):
        if key in checkpoint_of and key not in in_open_runs | set_aside:
            places.setdefault(checkpoint_of[key], []).append(place)
    return [_judging(checkpoint, found, order) for checkpoint, found in places.items()]


def _judging(checkpoint: str, places: Sequence[int], order: Sequence[str]) -> Judging:
    keys = tuple(order[place] for place in places)
    neighbours = sum(place == places[0] + index for index, place in enumerate(places))
    return Judging(checkpoint, keys[:neighbours], keys[neighbours:])


def scored_again(
    published: Sequence[Checkpoint], scores: Iterable[Score], comparison: Comparison, champion: str | None
) -> set[str]:
    """Names of the checkpoints that need a score taken as the settings say now.

    Args:
        published: in the order of publication.
        champion: weights of what is deployed; without it, or if it is not there any more, the newest is enough.
    """
    current = {score.weights_sha256 for score in scores if comparison.stale(score) is None}
    places = [place for place, found in enumerate(published) if found.weights_sha256 == champion]
    candidates = published[places[0] :] if places else published[-1:]
    return {found.name for found in candidates if found.weights_sha256 not in current}


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
        in_open_runs |= _also_in_open_runs(instance, job_name)
        checkpoint_of = _unscored(instance, platform)
        set_aside = _set_aside(instance, platform, job_name, order, checkpoint_of)
        waiting = plan_judging(order, checkpoint_of, in_open_runs, set_aside)
        if not waiting and not in_open_runs and promotion_waits(instance, platform, job_name):
            return [dg.RunRequest(asset_selection=[dg.AssetKey("ranking"), dg.AssetKey("deployed_model")])]
        if not waiting:
            tail = (
                f"; set aside after failed runs, until `gpu-assets queue retry KEY`: {', '.join(sorted(set_aside))}"
                if set_aside
                else ""
            )
            return dg.SkipReason(f"no checkpoint waits for its score{tail}")
        if (reason := silence(platform)) is not None:
            return dg.SkipReason(f"{len(waiting)} checkpoints wait for their scores: {reason}")
        return [_request(judging) for judging in waiting]

    return judging_sensor


def promotion_waits(instance: dg.DagsterInstance, platform: Platform, job_name: str) -> bool:
    """Whether a scored checkpoint should be served and is not: a run ended between its score and its deployment.

    After three such runs in a row that failed, a person is waited for.
    """
    ranked = current_ranking(platform.settings, platform.workspace)
    deployed = Deployment.read(platform.workspace)
    if not decide(ranked, deployed, None if deployed is None else deployed.weights_sha256).deploy:
        return False
    newest = instance.get_runs(dg.RunsFilter(job_name=job_name), limit=MAX_FAILURES)
    has_failed = [run.status == dg.DagsterRunStatus.FAILURE for run in newest]
    return all(run.is_finished for run in newest) and not (len(newest) == MAX_FAILURES and all(has_failed))


def _unscored(instance: dg.DagsterInstance, platform: Platform) -> dict[str, str]:
    """The checkpoint that a partition names, where its training is newer than its score or it is scored again."""
    trained, scored = (
        instance.event_log_storage.get_latest_storage_id_by_partition(asset, dg.DagsterEventType.ASSET_MATERIALIZATION)
        for asset in (CHECKPOINTS, SCORES)
    )
    newer = {key for key, storage_id in trained.items() if storage_id > scored.get(key, -1)}
    published = list_checkpoints(platform.workspace)
    deployed = read_deployed(platform.workspace)
    again = scored_again(
        published,
        list_scores(platform.workspace),
        Comparison.of(platform.settings),
        None if deployed is None else deployed["weights_sha256"],
    )
    names = {key: found.name for found in published for key in found.dataset_keys}
    return {key: name for key, name in names.items() if key in newer or (key in trained and name in again)}


def _set_aside(
    instance: dg.DagsterInstance, platform: Platform, job_name: str, order: Sequence[str], keys: Iterable[str]
) -> set[str]:
    """Those of the keys whose runs failed too often since they were trained, scored, or opened again."""
    positions = {key: place for place, key in enumerate(order)}
    since = {key: max(_recorded_at(instance, key), _opened_at(platform, key)) for key in keys}
    failures = failed_attempts(
        instance, job_name, order, since, lambda run: [*covered(run.tags, order, positions), *judged_also(run)]
    )
    return {key for key, count in failures.items() if count >= MAX_FAILURES}


def _also_in_open_runs(instance: dg.DagsterInstance, job_name: str) -> set[str]:
    runs = instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=list(OPEN)))
    return {key for run in runs for key in judged_also(run)}


def judged_also(run: dg.DagsterRun) -> Sequence[str]:
    """The partitions that a judging run's config names besides those that it covers."""
    ops: Any = run.run_config.get("ops", {})
    return list(ops.get("checkpoint_scores", {}).get("config", {}).get("also", []))


def _recorded_at(instance: dg.DagsterInstance, key: str) -> datetime:
    """When the partition was trained or scored last."""
    times = [0.0]
    for asset in (CHECKPOINTS, SCORES):
        wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key])
        times += [record.timestamp for record in instance.fetch_materializations(wanted, limit=1).records]
    return datetime.fromtimestamp(max(times), UTC)


def _opened_at(platform: Platform, key: str) -> datetime:
    """When a person opened the dataset again; long ago where its folder is gone, which scoring does not need."""
    if key not in dataset_keys(platform.workspace):
        return datetime.fromtimestamp(0, UTC)
    return open_since(find_dataset(platform.workspace, key))


def _request(judging: Judging) -> dg.RunRequest:
    config = {"ops": {"checkpoint_scores": {"config": {"also": list(judging.also)}}}} if judging.also else {}
    return dg.RunRequest(
        tags={
            RANGE_START_TAG: judging.covered[0],
            RANGE_END_TAG: judging.covered[-1],
            "gpu_assets/checkpoint": judging.checkpoint,
        },
        run_config=config,
    )
