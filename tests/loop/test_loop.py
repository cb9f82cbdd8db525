"""The loop closes: from a dropped file to a chat answer, through real sensors, processes and HTTP."""

import json
import os
import random
import signal
from pathlib import Path

import dagster as dg
import openai
import psutil
import pytest

from gpu_assets.cli.make import drop_generated
from gpu_assets.evaluation.score import list_scores
from gpu_assets.training.line import list_checkpoints
from resources.artifacts import is_complete, sha256_file, weights_sha256
from resources.deployed import read_deployed
from resources.keys import inference_keys
from serving.skills import binary
from tests.loop.conftest import RunningPlatform

pytestmark = pytest.mark.timeout(600)


def test_a_dropped_file_becomes_a_model_that_answers_over_the_openai_client(running: RunningPlatform) -> None:
    path = drop_generated(running.settings, seed=1, count=9_000, level=1)
    running.wait("a model is deployed", lambda: read_deployed(running.workspace) is not None)
    deployed = read_deployed(running.workspace)
    assert deployed is not None

    host, port = running.settings.hosts.address("inference")
    client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key=inference_keys(running.settings).read)
    answer = client.chat.completions.create(
        model="champion",
        messages=[{"role": "user", "content": deployed["question"]}],
        temperature=0,
        max_tokens=64,
    )
    assert answer.choices[0].message.content == deployed["answer"]
    assert answer.system_fingerprint == deployed["weights_sha256"]
    assert binary.parse_final(deployed["answer"]) is not None

    (key,) = running.materialized("checkpoints")
    assert key.startswith(path.stem)
    assert running.materialized("datasets") == running.materialized("validated_datasets") == {key}
    (checkpoint,) = list_checkpoints(running.workspace)
    assert weights_sha256(Path(deployed["served_path"])) == deployed["weights_sha256"] == checkpoint.weights_sha256
    assert not any(running.workspace.inbox.rglob("*.json*"))


def test_every_step_of_the_lineage_names_the_hash_before_it(running: RunningPlatform) -> None:
    running.wait("a score is recorded", lambda: bool(running.materialized("checkpoint_scores")))
    (key,) = running.materialized("checkpoint_scores")

    def metadata(asset: str) -> dict[str, object]:
        query = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[key])
        event = running.instance.fetch_materializations(query, limit=1).records[0].asset_materialization
        assert event is not None
        return {name: value.value for name, value in event.metadata.items()}

    dataset, validated, checkpoint, score = (
        metadata(asset) for asset in ("datasets", "validated_datasets", "checkpoints", "checkpoint_scores")
    )
    assert dataset["sha256"] == sha256_file(Path(str(dataset["path"]))) == validated["dataset_sha256"]
    trained_on = checkpoint["datasets"]
    assert isinstance(trained_on, list)
    assert trained_on[0]["sha256"] == validated["rows_sha256"]
    assert score["weights_sha256"] == checkpoint["weights_sha256"]
    assert validated["generator_id"] == binary.GENERATOR_ID


def test_one_hundred_files_dropped_at_once_are_one_or_two_runs_and_none_is_lost(running: RunningPlatform) -> None:
    before = running.materialized("checkpoints")
    taking_in = len(running.instance.get_runs(dg.RunsFilter(job_name="take_in")))
    inbox = running.workspace.inbox
    for number in range(100):
        rows = binary.training_rows(1, 5, random.Random(number))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (inbox / f".{number}").write_text(text)
    for number in range(100):
        (inbox / f".{number}").rename(inbox / "normal" / f"drop-{number:03}.jsonl")
    running.wait("100 more partitions are trained", lambda: len(running.materialized("checkpoints") - before) == 100)
    trained = running.materialized("checkpoints") - before
    assert {key.rpartition("-")[0] for key in trained} == {f"drop-{number:03}" for number in range(100)}
    assert len(running.instance.get_runs(dg.RunsFilter(job_name="take_in"))) - taking_in <= 2
    assert not any(inbox.rglob("*.jsonl"))


def test_a_training_run_killed_by_sigkill_is_gone_on_from_its_resume_point(running: RunningPlatform) -> None:
    published = {checkpoint.name for checkpoint in list_checkpoints(running.workspace)}
    drop_generated(running.settings, seed=2, count=6_000, level=1)
    running.wait("there is a resume point", lambda: any(running.workspace.training.glob("*/resume-*")))
    (run,) = running.instance.get_runs(
        dg.RunsFilter(job_name="train", statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    )
    os.kill(_worker_of(run.run_id, running), signal.SIGKILL)
    running.wait(
        "a checkpoint is published",
        lambda: any(checkpoint.name not in published for checkpoint in list_checkpoints(running.workspace)),
    )

    killed = running.instance.get_run_by_id(run.run_id)
    assert killed is not None and killed.status == dg.DagsterRunStatus.FAILURE
    checkpoint = list_checkpoints(running.workspace)[-1]
    assert checkpoint.manifest["resumed_from_step"] >= 10
    assert checkpoint.manifest["rows"] == 6_000
    key = checkpoint.dataset_keys[0]
    running.wait("the partition is materialized", lambda: key in running.materialized("checkpoints"))
    running.wait("it is scored", lambda: key in running.materialized("checkpoint_scores"))
    ranked = {score.checkpoint for score in list_scores(running.workspace)}
    assert checkpoint.name in ranked
    assert all(is_complete(running.workspace.checkpoints / name) for name in ranked)


def _worker_of(run_id: str, running: RunningPlatform) -> int:
    """The process that executes the run: it alone has the run's compute log open."""
    for process in psutil.Process().children(recursive=True):
        if any(run_id in file.path for file in process.open_files()):
            return process.pid
    raise AssertionError(f"no process executes run {run_id}")
