"""`gpu-assets lineage` as it is typed, on a home that was trained in and on a real Dagster instance."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from gpu_assets.cli.lineage_table import lines_text
from gpu_assets.cli.main import app
from gpu_assets.lineage.trace import TrainedOn
from gpu_assets.settings import PROJECT_ROOT
from resources.workspace import Workspace
from tests.lineage.support import make_validation, observe, run_take_in
from tests.lineage.world import BAD_LINE, ROWS, World, accept_fewer, build_world, refuse, train_on_c_too

Lineage = Callable[..., Result]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> World:
    """Read-only by convention."""
    return build_world(tmp_path_factory.mktemp("world") / "home", tiny_folder)


@pytest.fixture
def lineage() -> Lineage:
    return lambda *arguments: CliRunner().invoke(app, ["lineage", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def trained(lineage: Lineage, world: World, monkeypatch: pytest.MonkeyPatch) -> Lineage:
    """The command on the home of the world."""
    monkeypatch.setenv("GPU_ASSETS_HOME", str(world.workspace.home))
    return lineage


@pytest.fixture
def instance(workspace: Workspace) -> Iterator[dg.DagsterInstance]:
    """The home's own instance."""
    (workspace.dagster / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(workspace.dagster)) as instance:
        yield instance


def test_a_home_without_an_instance_has_an_empty_ledger(lineage: Lineage) -> None:
    assert "nothing was validated yet" in lineage().output
    assert json.loads(lineage("--json").output)["total_validations"] == 0


def test_the_worst_offender_is_named_for_people_and_for_programs(
    lineage: Lineage, instance: dg.DagsterInstance
) -> None:
    observe(instance, *(make_validation(f"bad{n}", rejected=8, generator_id="syllo_local") for n in range(10)))
    observe(instance, make_validation("good"))

    value = json.loads(lineage("--json").output)
    shown = lineage().output

    (offender,) = value["summary"]["worst_offenders"]
    assert (offender["id"], offender["rejected_rate"], offender["total"]) == ("syllo_local@1.0.0", 8.0, 10)
    assert offender["top_errors"] == {"empty_content": 80}
    assert value["generators"]["syllo_local@1.0.0"]["rows"]["rejected"] == 80
    assert "11 validations, 0 failed; worst offenders: syllo_local@1.0.0 (8.0% of its rows lost)" in shown
    assert "empty_content 80" in shown


def test_an_observation_that_is_no_validation_is_named_beside_the_ledger(
    lineage: Lineage, instance: dg.DagsterInstance
) -> None:
    instance.report_runless_asset_event(
        dg.AssetObservation("validated_datasets", partition="b", tags={"gpu_assets/validation": "1"})
    )

    result = lineage("--json")

    assert (result.exit_code, json.loads(result.stdout)["total_validations"]) == (0, 0)
    assert "not counted: event" in result.stderr


def test_a_model_is_shown_with_files_lines_and_generators(trained: Lineage, world: World) -> None:
    value = json.loads(trained("--model", world.second.name, "--json").output)
    shown = trained("--model", world.second.weights_sha256[:8]).output

    assert [ancestor["checkpoint"] for ancestor in value["descent"]] == [world.second.name, world.first.name]
    (a,) = value["descent"][1]["datasets"]
    assert (a["key"], a["rows"], a["lines"]) == (world.a, ROWS, [[1, BAD_LINE - 1], [BAD_LINE + 1, ROWS + 1]])
    assert f"1-{BAD_LINE - 1}, {BAD_LINE + 1}-{ROWS + 1}" in shown
    assert a["file_sha256"][:8] in shown and "curriculum@1.0.0" in shown


def test_a_row_is_shown_with_who_saw_it_and_what_is_deployed(trained: Lineage, world: World) -> None:
    line = f"{world.files / 'a.jsonl'}:2"
    value = json.loads(trained("--row", line, "--json").output)
    shown = trained("--row", line).output

    assert [seen["checkpoint"] for seen in value["checkpoints"]] == [world.first.name, world.second.name]
    assert value["deployed"] == world.second.name
    assert f"{world.first.name} was trained on it ({world.a})" in shown
    assert f"descends from {world.first.name}" in shown and f"deployed: {world.second.name}" in shown


def test_a_rejected_row_is_shown_with_the_rule(trained: Lineage, world: World) -> None:
    shown = trained("--row", f"{world.a}:{BAD_LINE}").output

    assert f"rejected: {world.a} line {BAD_LINE}, by " in shown
    assert "no checkpoint saw it" in shown


def test_what_was_withdrawn_since_is_said(
    lineage: Lineage, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Workspace(Path(shutil.copytree(world.workspace.home, tmp_path / "own")))
    refuse(own, world.b, '{"generator_id": "nobody"}')
    monkeypatch.setenv("GPU_ASSETS_HOME", str(own.home))

    row, model = lineage("--row", f"{world.b}:1").output, lineage("--model", world.second.name).output

    assert f"accepted: {world.b} line 1, withdrawn since" in row
    assert "its file was refused: " in row and f"deployed: {world.second.name}" in row
    assert f"{world.b}: withdrawn since: a gate refused it" in model and f"1-{ROWS}" in model
    assert json.loads(lineage("--model", world.second.name, "--json").output)["descent"][0]["datasets"][0]["since"]


@pytest.fixture
def own(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of the world that a test may change, as the command's home."""
    own = Workspace(Path(shutil.copytree(world.workspace.home, tmp_path / "own")))
    monkeypatch.setenv("GPU_ASSETS_HOME", str(own.home))
    return own


def test_rows_that_were_replaced_since_are_said_to_be_kept(lineage: Lineage, world: World, own: Workspace) -> None:
    line = accept_fewer(own, world.b)

    row, model = lineage("--row", f"{world.b}:{line}").output, lineage("--model", world.second.name).output

    assert f"accepted: {world.b} line {line}, replaced since" in row and f"rejected: {world.b} line {line}" in row
    assert f"{world.second.name} was trained on it ({world.b}), deployed" in row
    assert f"{world.b}: validated again since, with other rows; these are kept" in model and f"1-{ROWS}" in model
    other = lineage("--row", f"{world.b}:{line % ROWS + 1}").output
    assert other.count("accepted: ") == 1 and "since" not in other


def test_all_datasets_with_the_row_are_named(lineage: Lineage, world: World, own: Workspace) -> None:
    train_on_c_too(own, world)

    shown = lineage("--row", f"{world.c}:1").output
    seen, _ = json.loads(lineage("--row", f"{world.c}:1", "--json").output)["checkpoints"]

    assert f"{world.first.name} was trained on it ({world.a}, {world.c})" in shown
    assert (seen["dataset"], seen["datasets"]) == (world.a, [world.a, world.c])


def test_a_checkpoint_without_its_parent_is_shown_as_one_that_perhaps_saw_the_row(
    lineage: Lineage, world: World, own: Workspace
) -> None:
    shutil.rmtree(own.checkpoints / world.first.name)

    shown = lineage("--row", f"{world.a}:2").output
    (seen,) = json.loads(lineage("--row", f"{world.a}:2", "--json").output)["checkpoints"]

    assert "no checkpoint saw it" not in shown
    assert f"{world.second.name} perhaps saw it by descent: {world.first.name} is not on disk any more" in shown
    assert f"deployed: {world.second.name}, perhaps" in shown
    assert "whether it saw the row is not known" in seen["doubt"]


def test_events_without_the_file_that_opens_them_are_not_called_none(
    lineage: Lineage, instance: dg.DagsterInstance, workspace: Workspace
) -> None:
    observe(instance, make_validation("a"))
    (workspace.dagster / "dagster.yaml").unlink()

    result = lineage()

    assert result.exit_code == 2
    assert "no dagster.yaml" in result.output and "nothing was validated yet" not in result.output


def test_a_generator_whose_files_are_refused_is_named_with_how_many(
    lineage: Lineage, instance: dg.DagsterInstance
) -> None:
    observe(instance, *(make_validation(f"bad{n}", rows=0, passed=False) for n in range(10)))

    assert "curriculum@1.0.0 (0.0% of its rows lost, 10 of 10 datasets refused)" in lineage().output


def test_runs_are_exported_once(lineage: Lineage, instance: dg.DagsterInstance, workspace: Workspace) -> None:
    run_id = run_take_in(instance)

    first = json.loads(lineage("--export-openlineage", "--json").output)
    again = lineage("--export-openlineage").output

    assert first == {"folder": str(workspace.home / "lineage" / "openlineage"), "written": [f"{run_id}.jsonl"]}
    assert again.startswith("0 files written")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "checkpoint-9"), "no checkpoint is 'checkpoint-9'"),
        (("--row", "missing.jsonl:1"), "neither a file nor the key"),
        (("--row", "xyz"), "names no row"),
        (("--model", "x", "--row", "y"), "three questions"),
        (("--export-openlineage",), "no Dagster instance yet"),
    ],
)
def test_a_question_without_an_answer_is_a_sentence_and_exit_2(
    lineage: Lineage, arguments: tuple[str, ...], sentence: str
) -> None:
    result = lineage(*arguments)

    assert result.exit_code == 2
    assert sentence in result.output


def test_many_ranges_of_lines_are_cut() -> None:
    lines = ((1, 3), (5, 5), (7, 9), (11, 12), (14, 20))

    assert lines_text(TrainedOn("a", 1, "", lines=lines)) == "1-3, 5, 7-9 and 2 more ranges"


def test_the_command_line_loads_nothing_heavy_for_it() -> None:
    heavy = {"dagster", "polars", "openlineage", "torch"}
    code = f"import sys, gpu_assets.cli.lineage; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=PROJECT_ROOT)
    assert result.stdout.strip() == "[]", result.stderr
