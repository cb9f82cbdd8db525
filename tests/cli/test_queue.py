"""`gpu-assets queue` as it is typed, on a real home with a real Dagster instance."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from gpu_assets.cli.queue import queue_app
from gpu_assets.cli.queue_table import human_age, human_size, queue_table, shorten
from gpu_assets.datasets.intake import take_in
from gpu_assets.datasets.queue import QueueRow
from gpu_assets.datasets.records import find_dataset, sidecar_sha256, write_refusal
from gpu_assets.settings import PROJECT_ROOT
from resources.workspace import Workspace
from tests.sensors.support import add_failed_run, add_open_run

Queue = Callable[..., Result]


@pytest.fixture
def queue() -> Queue:
    return lambda *arguments: CliRunner().invoke(queue_app, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n')
    return path


@pytest.fixture
def key(workspace: Workspace, queue: Queue, file: Path) -> str:
    assert queue("add", file).exit_code == 0
    (key,) = take_in(workspace, validated=(), open_keys=(), settle_s=0, pause=lambda _: None).taken_in
    return key


@pytest.fixture
def instance(workspace: Workspace, tiny_folder: Path) -> Iterator[dg.DagsterInstance]:
    """The home's own instance and its base model, as `gpu-assets up` leaves them."""
    (workspace.models / "tiny-seed42").symlink_to(tiny_folder)
    (workspace.dagster / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(workspace.dagster)) as instance:
        yield instance


def materialize(instance: dg.DagsterInstance, asset: str, key: str, **metadata: int) -> None:
    instance.report_runless_asset_event(
        dg.AssetMaterialization(asset, partition=key, metadata={f"dagster/{name}": n for name, n in metadata.items()})
    )


def listed(queue: Queue) -> dict[str, object]:
    result = queue("list", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.output)["datasets"]
    return row


def test_a_home_that_does_not_exist_has_an_empty_queue(queue: Queue) -> None:
    result = queue("list")

    assert result.exit_code == 0
    assert "no dataset was taken in yet" in result.output


def test_an_added_file_is_listed_in_the_inbox_and_then_as_a_dataset(
    workspace: Workspace, queue: Queue, file: Path
) -> None:
    added = queue("add", file, "--priority", "high")
    assert (added.exit_code, added.output.strip()) == (0, str(workspace.inbox / "high" / "a.jsonl"))
    assert "in the inbox, not taken in yet: 1 (high/a.jsonl)" in queue("list").output.replace("\n", " ")

    (key,) = take_in(workspace, validated=(), open_keys=(), settle_s=0, pause=lambda _: None).taken_in

    row = listed(queue)
    assert (row["key"], row["priority"], row["state"], row["size_bytes"]) == (key, "high", "waiting", 14)


def test_states_and_rows_come_from_the_homes_instance(queue: Queue, key: str, instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("datasets", [key])
    assert listed(queue)["state"] == "waiting"

    materialize(instance, "validated_datasets", key, row_count=7)
    materialize(instance, "validated_datasets", key, row_count=8)
    row = listed(queue)
    assert (row["state"], row["rows"]) == ("validated", 8)

    materialize(instance, "checkpoints", key)
    assert listed(queue)["state"] == "trained"

    materialize(instance, "checkpoint_scores", key)
    assert listed(queue)["state"] == "scored"

    materialize(instance, "checkpoints", key)
    assert listed(queue)["state"] == "trained", "it was trained again since"


@pytest.mark.parametrize(
    ("job", "done", "state", "stage"),
    [
        ("take_in", (), "validating", "taking in"),
        ("train", ("validated_datasets",), "training", "training"),
        ("judge", ("validated_datasets", "checkpoints"), "judging", "judging"),
    ],
)
def test_what_a_run_covers_is_under_way_and_set_aside_after_three_that_failed(
    queue: Queue, key: str, instance: dg.DagsterInstance, job: str, done: tuple[str, ...], state: str, stage: str
) -> None:
    instance.add_dynamic_partitions("datasets", [key])
    for asset in done:
        materialize(instance, asset, key)
    run = add_open_run(instance, job, key)
    assert listed(queue)["state"] == state
    instance.report_run_failed(run)
    assert listed(queue)["state"] not in (state, "set aside")

    for _ in range(2):
        add_failed_run(instance, job, key)
    row = listed(queue)
    assert row["state"] == "set aside"
    assert f"{stage} gave up after 3 failed runs" in str(row["sentence"])

    result = queue("retry", "--all")
    assert (result.exit_code, result.output) == (0, f"{key}: the next tick of the sensors tries it again\n")
    assert listed(queue)["state"] not in (state, "set aside")


def test_a_failure_that_comes_again_is_counted_as_the_runs_that_there_were_and_named(
    queue: Queue, key: str, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions("datasets", [key, "another"])
    materialize(instance, "validated_datasets", key)
    add_failed_run(instance, "train", key, "another", permanent="TrainingDiverged", message="the loss rose\ntwice")
    add_failed_run(instance, "train", key, permanent="TrainingDiverged", message="the loss rose alone\ntwice")
    row = listed(queue)
    assert row["state"] == "set aside"
    assert row["sentence"] == (
        "validated; training gave up after 2 failed runs: the loss rose alone; see them in Dagster, then "
        f"`gpu-assets queue retry {key}`"
    )


def test_who_holds_training_is_said(queue: Queue, key: str, instance: dg.DagsterInstance) -> None:
    assert json.loads(queue("list", "--json").output)["hold"] is None
    instance.event_log_storage.set_concurrency_slots("gpu-4090", 0)
    assert "nothing is trained: training is paused" in " ".join(queue("list").output.split())
    assert json.loads(queue("list", "--json").output)["hold"].startswith("training is paused")


def test_a_full_disk_that_training_waits_for_is_said_with_what_is_free_and_wanted(
    queue: Queue, key: str, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions("datasets", [key])
    materialize(instance, "validated_datasets", key)
    assert json.loads(queue("list", "--json").output)["full_disk"] is None
    run = add_open_run(instance, "train", key)
    instance.add_run_tags(run.run_id, {"gpu_assets/wanted_bytes": str(10**18)})
    instance.report_run_failed(run)

    said = " ".join(queue("list").output.split())
    assert "nothing is trained: the disk of " in said and " GB are free, training goes on with" in said
    assert " is full: " in json.loads(queue("list", "--json").output)["full_disk"]


def test_one_broken_manifest_does_not_hide_the_others(
    workspace: Workspace, queue: Queue, key: str, instance: dg.DagsterInstance
) -> None:
    broken = workspace.datasets / "broken-00000000"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")

    result = queue("list")

    assert result.exit_code == 0
    assert key in result.output
    assert "broken-00000000" in result.output and "is not JSON" in result.output.replace("\n", " ")


def test_long_keys_keep_their_digits_and_the_sentence_has_its_own_lines_at_80_columns() -> None:
    keys = [f"{'train_' * 11}{number}-0123456{number}" for number in range(2)]
    rows = [QueueRow(key, "refused", "word " * 30, priority="normal", size_bytes=1) for key in keys]
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(queue_table(rows, console))

    lines = console.export_text().splitlines()
    assert max(len(line) for line in lines) <= 80
    assert [line.split()[0][-11:] for line in lines if line.startswith("train")] == ["_0-01234560", "_1-01234561"]
    assert sum("word word word" in line for line in lines) == 2 * 2
    assert all(line.startswith("    word") for line in lines if "word" in line)


def test_a_key_that_fits_is_shown_whole() -> None:
    assert [shorten("abcdefghij-01234567", width) for width in (19, 17)] == ["abcdefghij-01234567", "abcdefg...1234567"]


def test_the_table_shows_key_state_and_sentence(workspace: Workspace, queue: Queue, key: str) -> None:
    write_refusal(workspace.datasets / key, "no schema [fits]", {}, sidecar_sha256(workspace.datasets / key))

    output = queue("list").output

    assert key in output
    assert "refused" in output
    assert "no schema" in output and "[fits]" in output
    assert "states are from files only" in output


def test_a_schema_makes_a_sidecar(workspace: Workspace, queue: Queue, file: Path) -> None:
    assert queue("add", file, "--schema", "completion_v1").exit_code == 0

    assert json.loads((workspace.inbox / "a.jsonl.meta.json").read_text()) == {"schema_id": "completion_v1"}


def test_a_priority_is_set(workspace: Workspace, queue: Queue, key: str) -> None:
    result = queue("set-priority", key, "low")

    assert (result.exit_code, result.output) == (0, f"{key}: priority low\n")
    assert find_dataset(workspace, key).priority == "low"


def test_a_retry_removes_the_refusal(workspace: Workspace, queue: Queue, key: str) -> None:
    write_refusal(workspace.datasets / key, "no", {}, None)

    assert queue("retry", key).exit_code == 0
    assert not (workspace.datasets / key / "refusal.json").exists()


def test_a_retry_of_all_says_so_where_there_is_nothing_to_try(queue: Queue, key: str) -> None:
    result = queue("retry", "--all")

    assert (result.exit_code, result.output) == (0, "nothing is set aside or refused that could be tried again\n")


def test_a_retry_of_all_names_what_it_opened(workspace: Workspace, queue: Queue, key: str) -> None:
    write_refusal(workspace.datasets / key, "no", {}, None)

    assert queue("retry", "--all").output == f"{key}: the next tick of the sensors tries it again\n"
    assert not (workspace.datasets / key / "refusal.json").exists()


def test_no_command_line_module_imports_dagster_or_torch_before_a_command_needs_it() -> None:
    code = "import sys, gpu_assets.cli.main; print(sorted({'dagster', 'scipy', 'polars', 'torch'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=PROJECT_ROOT)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr[-2000:]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("retry",), "name one key, or --all"),
        (("retry", "a", "--all"), "name one key, or --all"),
        (("retry", "nobody"), "no dataset has the key 'nobody'"),
        (("set-priority", "nobody", "high"), "no dataset has the key 'nobody'"),
        (("set-priority", "nobody", "urgent"), "'urgent' is not one of"),
        (("add", "nowhere.jsonl"), "nowhere.jsonl is not there"),
        (("add", "x" * 300 + ".jsonl"), "File name too long"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_exit_code_2(queue: Queue, arguments, sentence: str) -> None:
    result = queue(*arguments)

    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_a_trained_dataset_is_left_alone(queue: Queue, key: str, instance: dg.DagsterInstance) -> None:
    materialize(instance, "checkpoints", key)
    materialize(instance, "checkpoint_scores", key)

    for arguments in (("set-priority", key, "high"), ("retry", key)):
        result = queue(*arguments)
        assert result.exit_code == 2
        assert "was trained" in result.output


def test_sizes_and_ages_are_shown_in_their_largest_unit() -> None:
    assert [human_size(size) for size in (0, 1023, 1536, 2**20, 5 * 2**30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "1.0 MiB",
        "5.0 GiB",
    ]
    assert [human_age(seconds) for seconds in (-1, 59, 60, 7200, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]
