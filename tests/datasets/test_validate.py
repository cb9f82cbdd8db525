"""Both gates on real files: what passes becomes Parquet, what does not has a reason in quarantine."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gpu_assets.datasets.queue import retry
from gpu_assets.datasets.records import Dataset, find_dataset, standing_refusal
from gpu_assets.datasets.validate import GateRefused, Gates, dataset_to_validate
from gpu_assets.datasets.validated import (
    ValidatedDataset,
    read_validated,
    read_versions,
    trained_problem_keys,
    up_to_date,
)
from gpu_assets.errors import ArtifactInvalid, DatasetInvalid, SettingsError
from gpu_assets.rendering import Renderer
from gpu_assets.settings import GeneratorPolicy, Settings
from resources.workspace import Workspace
from serving.skills import binary
from tests.datasets.conftest import Tick
from validators.history import RowHistory

Drop = Callable[..., Dataset]
GatesWith = Callable[..., Gates]


@pytest.fixture
def gates(settings: Settings, workspace: Workspace, tiny_folder: Path) -> Gates:
    return Gates.build(settings, workspace, Renderer.load(tiny_folder, "plain"))


@pytest.fixture
def drop(workspace: Workspace, tick: Tick) -> Drop:
    """Puts rows (objects, or lines as they are) into the inbox and takes them in."""

    def put(*rows: Any, name: str = "rows.jsonl", sidecar: dict[str, Any] | None = None) -> Dataset:
        lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
        (workspace.inbox / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if sidecar is not None:
            (workspace.inbox / f"{name}.meta.json").write_text(json.dumps(sidecar))
        (key,) = tick().taken_in
        return find_dataset(workspace, key)

    return put


@pytest.fixture
def gates_with(settings: Settings, workspace: Workspace, tiny_folder: Path) -> GatesWith:
    """The gates under other settings of validation."""

    def build(**thresholds: object) -> Gates:
        changed = settings.validation.model_copy(update=thresholds)
        renderer = Renderer.load(tiny_folder, "plain")
        return Gates.build(settings.model_copy(update={"validation": changed}), workspace, renderer)

    return build


def generated(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return list(binary.training_rows(2, count, random.Random(seed)))


def quarantined(workspace: Workspace, dataset: Dataset, name: str) -> Any:
    path = workspace.quarantine / dataset.key / name
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def test_generated_rows_pass_both_gates_whole(gates: Gates, drop: Drop, workspace: Workspace) -> None:
    rows = generated(50)
    sidecar = {"generator_id": binary.GENERATOR_ID, "generator_version": "1.0.0"}
    validated = gates.validate(drop(*rows, sidecar=sidecar))
    assert (validated.rows, validated.rejected, validated.schema) == (50, 0, "chat_sft_v1")
    assert (validated.generator_id, validated.generator_version) == ("binary_api", "1.0.0")
    kept = pl.read_parquet(validated.rows_path)
    assert kept["messages"].to_list() == [row["messages"] for row in rows]
    assert not (workspace.quarantine / validated.key).exists()


def test_what_was_validated_reads_back_from_its_key(gates: Gates, drop: Drop, workspace: Workspace) -> None:
    dataset = drop(*generated(5))
    validated = gates.validate(dataset)
    found = read_validated(workspace, dataset.key)
    assert found == validated
    assert found.manifest["dataset_sha256"] == dataset.sha256
    assert found.report["accepted"] == 5
    assert found.headline.endswith("5 of 5 rows accepted as chat_sft_v1")


def test_the_rows_hash_is_of_what_was_accepted_in_its_order(gates: Gates, drop: Drop) -> None:
    rows = generated(6)
    files: list[list[Any]] = [rows, [rows[0], "", *rows[1:]], rows[::-1]]
    hashes = [gates.validate(drop(*given, name=f"{number}.jsonl")).rows_sha256 for number, given in enumerate(files)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_rejected_rows_lie_in_quarantine_with_line_and_reason(gates: Gates, drop: Drop, workspace: Workspace) -> None:
    rows = [*generated(20), "{not json", *generated(5, seed=1)]
    dataset = drop(*rows)
    validated = gates.validate(dataset)
    assert (validated.rows, validated.rejected) == (25, 1)
    (row,) = quarantined(workspace, dataset, "rejected.jsonl")
    assert (row["line"], row["reason"], row["excerpt"]) == (21, "invalid_json", "{not json")
    assert not (workspace.quarantine / dataset.key / "reason.json").exists()


def test_a_question_that_is_held_out_never_passes(gates: Gates, drop: Drop, workspace: Workspace) -> None:
    held_out = next(problem for problem in binary.problems(2) if problem.held_out)
    leak = generated(1)[0] | {"metadata": {"problem_key": held_out.key}}
    dataset = drop(*generated(30), leak)
    assert gates.validate(dataset).rows == 30
    (row,) = quarantined(workspace, dataset, "rejected.jsonl")
    assert row["reason"] == "held_out"
    assert held_out.key not in trained_problem_keys(workspace)


def test_a_file_of_no_known_schema_is_refused_at_the_spec_gate(gates: Gates, drop: Drop, workspace: Workspace) -> None:
    dataset = drop({"question": "?", "reply": "!"})
    with pytest.raises(GateRefused, match="neither messages nor text") as refused:
        gates.validate(dataset)
    assert refused.value.gate == "spec"
    reason = quarantined(workspace, dataset, "reason.json")
    assert reason["sentence"] == str(refused.value)
    assert reason["next_step"] == refused.value.next_step
    assert not (dataset.folder / "validated").exists()


@pytest.mark.parametrize(
    ("sidecar", "sentence"),
    [
        ({"schema_id": "unheard_of"}, "schema_id .*unheard_of.* is not registered"),
        ({"schema_id": "completion_v1"}, "schema completion_v1 requires column"),
        ({"colour": "red"}, "has unknown key"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused_at_the_spec_gate(
    sidecar: dict[str, Any], sentence: str, gates: Gates, drop: Drop
) -> None:
    with pytest.raises(GateRefused, match=sentence) as refused:
        gates.validate(drop(*generated(3), sidecar=sidecar))
    assert refused.value.gate == "spec"


def test_too_many_bad_rows_refuse_the_file_at_the_content_gate_and_all_are_kept(
    gates: Gates, drop: Drop, workspace: Workspace
) -> None:
    dataset = drop(*generated(8), "{", "[]")
    with pytest.raises(GateRefused, match=r"2 of 10 rows rejected \(20.0%\), over the limit of 10.0%") as refused:
        gates.validate(dataset)
    assert refused.value.gate == "content"
    assert [row["line"] for row in quarantined(workspace, dataset, "rejected.jsonl")] == [9, 10]
    assert quarantined(workspace, dataset, "report.json")["valid"] is False
    assert quarantined(workspace, dataset, "reason.json")["sentence"] == str(refused.value)
    with pytest.raises(ArtifactInvalid, match="has no manifest.json"):
        read_validated(workspace, dataset.key)


def test_a_refusal_stands_until_the_sidecar_is_another_one(gates: Gates, drop: Drop) -> None:
    dataset = drop(*generated(3), sidecar={"schema_id": "unheard_of"})
    with pytest.raises(GateRefused):
        gates.validate(dataset)
    refusal = standing_refusal(dataset.folder)
    assert refusal is not None and "unheard_of" in refusal.sentence
    (dataset.folder / "sidecar.json").write_text('{"schema_id": "chat_sft_v1"}')
    assert standing_refusal(dataset.folder) is None
    assert gates.validate(dataset).rows == 3


def test_a_refusal_is_forgotten_where_the_dataset_passes_later(gates: Gates, drop: Drop) -> None:
    dataset = drop(*generated(3), sidecar={"schema_id": "unheard_of"})
    with pytest.raises(GateRefused):
        gates.validate(dataset)
    refused_with = (dataset.folder / "sidecar.json").read_bytes()
    (dataset.folder / "sidecar.json").write_text('{"schema_id": "chat_sft_v1"}')
    gates.validate(dataset)
    (dataset.folder / "sidecar.json").write_bytes(refused_with)
    assert standing_refusal(dataset.folder) is None


def test_an_entry_that_the_inbox_refused_is_refused_with_its_sentence(
    gates: Gates, workspace: Workspace, tick: Tick
) -> None:
    (workspace.inbox / "folder").mkdir()
    (key,) = tick().refused
    dataset = dataset_to_validate(workspace, key)
    with pytest.raises(GateRefused, match="folder is a directory") as refused:
        gates.validate(dataset)
    assert str(refused.value) == dataset.refused


def test_validating_again_replaces_what_was_there_as_a_whole(gates: Gates, drop: Drop, workspace: Workspace) -> None:
    dataset = drop(*generated(4))
    first = gates.validate(dataset)
    (first.folder / "leftover").write_text("")
    second = gates.validate(dataset)
    assert second.rows_sha256 == first.rows_sha256
    assert {path.name for path in second.folder.iterdir()} == {"rows.parquet", "report.json", "manifest.json"}


def test_data_that_was_changed_after_it_was_taken_in_is_refused(drop: Drop, workspace: Workspace) -> None:
    dataset = drop(*generated(3))
    dataset.data_path.chmod(0o644)
    dataset.data_path.write_text("other\n")
    with pytest.raises(DatasetInvalid, match="was changed after it was taken in: .* becomes a dataset of its own"):
        dataset_to_validate(workspace, dataset.key)
    with pytest.raises(SettingsError, match="no dataset has the key 'nobody'"):
        dataset_to_validate(workspace, "nobody")


def test_completion_rows_pass_and_have_no_problem_keys(gates: Gates, drop: Drop, workspace: Workspace) -> None:
    validated = gates.validate(drop({"text": "one"}, {"text": "two"}))
    assert (validated.schema, validated.rows) == ("completion_v1", 2)
    assert trained_problem_keys(workspace) == frozenset()


def test_the_problems_of_all_validated_datasets_are_known(gates: Gates, drop: Drop, workspace: Workspace) -> None:
    assert trained_problem_keys(workspace) == frozenset()
    files = [generated(20, seed=1), generated(20, seed=2), [{"text": "no problem"}]]
    for number, rows in enumerate(files):
        gates.validate(drop(*rows, name=f"{number}.jsonl"))
    expected = {row["metadata"]["problem_key"] for rows in files[:2] for row in rows}
    assert trained_problem_keys(workspace) == expected


def test_what_passes_after_all_has_no_reason_in_quarantine_any_more(
    gates: Gates, drop: Drop, workspace: Workspace, settings: Settings, tiny_folder: Path
) -> None:
    dataset = drop(*generated(8), "{", "[]")
    with pytest.raises(GateRefused):
        gates.validate(dataset)
    retry(workspace, dataset.key, scored=())
    lenient = settings.validation.model_copy(update={"max_rejected_share": 0.5})
    changed = settings.model_copy(update={"validation": lenient})
    again = Gates.build(changed, workspace, Renderer.load(tiny_folder, "plain")).validate(dataset)
    assert (again.rows, again.rejected) == (8, 2)
    assert {path.name for path in (workspace.quarantine / dataset.key).iterdir()} == {"rejected.jsonl"}


def test_a_reserved_question_is_not_trained_on_even_where_the_file_does_not_say_so(
    gates: Gates, drop: Drop, workspace: Workspace
) -> None:
    reserved = next(problem for problem in binary.problems(1) if problem.held_out)
    unlabelled = {
        "messages": [
            {"role": "user", "content": f"Please tell me: {binary.question(reserved)}"},
            {"role": "assistant", "content": binary.worked_answer(reserved)},
        ]
    }
    dataset = drop(*generated(30), unlabelled)
    assert gates.validate(dataset).rejected == 1
    (line,) = (workspace.quarantine / dataset.key / "rejected.jsonl").read_text().splitlines()
    assert "reserved for evaluation" in line


CORRECTED = "Drop a corrected mine.jsonl into the inbox, where it becomes a dataset of its own"


@pytest.mark.parametrize(
    ("content", "sidecar", "sentence", "next_step"),
    [
        (b"", None, "mine.jsonl is empty: it holds no rows", CORRECTED),
        (b"\xff\xfe{\x00", None, "mine.jsonl is not JSONL: it looks like UTF-16 text", CORRECTED),
        (b"\xe9\n" * 3, None, "mine.jsonl: none of its first 100 lines is a JSON object (line 1: ", CORRECTED),
        (
            b'{"text": "x"}\n',
            "[]",
            "sidecar mine.jsonl.meta.json is not a JSON object",
            "Drop a corrected mine.jsonl.meta.json into the inbox",
        ),
        (
            b'{"question": "x"}\n',
            None,
            "no schema_id is named",
            "Drop a mine.jsonl.meta.json that names the schema, or a corrected mine.jsonl, into the inbox",
        ),
        (b'{"text": 1}\n', None, "mine.jsonl is refused: 1 of 1 rows rejected", CORRECTED),
        (
            b'{"text": "x"}\n{"text": 1}\n',
            None,
            "mine.jsonl is refused: 1 of 2 rows rejected",
            f"{CORRECTED}; or change the setting and run: gpu-assets queue retry KEY",
        ),
    ],
)
def test_a_refusal_calls_the_file_as_it_was_dropped_and_says_what_can_mend_it(
    content: bytes,
    sidecar: str | None,
    sentence: str,
    next_step: str,
    gates: Gates,
    workspace: Workspace,
    tick: Tick,
) -> None:
    (workspace.inbox / "mine.jsonl").write_bytes(content)
    if sidecar is not None:
        (workspace.inbox / "mine.jsonl.meta.json").write_text(sidecar)
    (key,) = tick().taken_in
    dataset = find_dataset(workspace, key)

    with pytest.raises(GateRefused) as refused:
        gates.validate(dataset)

    expected = next_step.replace("KEY", key)
    assert str(refused.value).startswith(sentence)
    assert str(dataset.folder) not in str(refused.value)
    assert refused.value.with_next_step.endswith(f". {expected}")
    reason = quarantined(workspace, dataset, "reason.json")
    assert (reason["original_name"], reason["next_step"]) == ("mine.jsonl", expected)
    refusal = standing_refusal(dataset.folder)
    assert refusal is not None and refusal.next_step == expected


def test_data_that_cannot_be_read_is_a_sentence_that_names_the_retry(drop: Drop, workspace: Workspace) -> None:
    dataset = drop(*generated(3))
    dataset.data_path.unlink()
    with pytest.raises(DatasetInvalid, match=rf"cannot be read \(No such file.*queue retry {dataset.key}"):
        dataset_to_validate(workspace, dataset.key)


def prose(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Chat rows whose words are random, so that no two are alike."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(3000)]
    return [
        {
            "messages": [
                {"role": "user", "content": " ".join(rng.choices(words, k=12))},
                {"role": "assistant", "content": " ".join(rng.choices(words, k=20))},
            ]
        }
        for _ in range(count)
    ]


def duplicates_in(validated: ValidatedDataset) -> dict[str, int]:
    rules = ("exact_duplicate", "near_duplicate")
    return {one["rule"]: one["count"] for one in validated.report["problems"] if one["rule"] in rules}


def test_rows_accepted_before_are_known_and_a_dataset_is_no_duplicate_of_itself(gates: Gates, drop: Drop) -> None:
    rows = prose(40)
    first, again = drop(*rows), drop(*rows[:10], *prose(10, seed=1), name="again.jsonl")

    assert duplicates_in(gates.validate(first)) == {}
    assert duplicates_in(gates.validate(again)) == {"exact_duplicate": 10}
    assert duplicates_in(gates.validate(first)) == {"exact_duplicate": 10}
    assert duplicates_in(gates.validate(again)) == {"exact_duplicate": 10}


@pytest.mark.parametrize("level", ["quick", "standard"])
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_rows_that_were_accepted_at_a_lower_level_are_known_as_the_same_later(
    level: str, kind: str, gates: Gates, gates_with: GatesWith, drop: Drop
) -> None:
    rows: list[Any] = prose(40)
    if kind == "completion":
        rows = [{"text": row["messages"][1]["content"]} for row in rows]
    first, again = drop(*rows), drop(*rows[:10], name="again.jsonl")
    gates_with(level=level).validate(first)

    assert duplicates_in(gates.validate(again)) == {"exact_duplicate": 10}


def test_a_validation_at_a_lower_level_forgets_nothing_of_rows_that_are_still_accepted(
    gates: Gates, gates_with: GatesWith, drop: Drop, workspace: Workspace
) -> None:
    rows = prose(40)
    rows[20]["messages"][0]["content"] += " longer"
    altered = [json.loads(json.dumps(row)) for row in rows[:10]]
    for row in altered:
        row["messages"][1]["content"] += " z"
    first, nearly = drop(*rows), drop(*altered, name="nearly.jsonl")
    gates.validate(first)
    gates_with(level="quick").validate(first)
    assert duplicates_in(gates.validate(nearly)) == {"near_duplicate": 10}

    longest = max(map(len, first.data_path.read_bytes().splitlines()))
    gates_with(level="quick", max_row_bytes=longest - 1).validate(first)
    with RowHistory.open(workspace.row_history, read_only=True) as history:
        assert history.datasets()[first.key] == 39
    gates.validate(first)
    assert duplicates_in(gates.validate(nearly)) == {"near_duplicate": 10}


def test_a_generator_may_be_held_to_no_duplicates(
    settings: Settings, workspace: Workspace, tiny_folder: Path, drop: Drop
) -> None:
    strict = GeneratorPolicy(severities={"exact_duplicate": "reject_row"})
    thresholds = settings.validation.model_copy(update={"generators": {"curriculum": strict}})
    changed = settings.model_copy(update={"validation": thresholds})
    gates = Gates.build(changed, workspace, Renderer.load(tiny_folder, "plain"))
    rows = prose(20)
    made_by_hand = drop(*rows, rows[0])
    generated_by_curriculum = drop(*prose(20, 1), rows[0], name="c.jsonl", sidecar={"generator_id": "curriculum"})

    assert gates.validate(made_by_hand).rejected == 0
    assert gates.validate(generated_by_curriculum).report["problems"][0]["rule"] == "exact_duplicate"


def test_generators_that_are_not_registered_are_refused_unless_the_settings_say_otherwise(
    gates: Gates, settings: Settings, workspace: Workspace, tiny_folder: Path, drop: Drop
) -> None:
    dataset = drop(*generated(10), sidecar={"generator_id": "mystery"})
    with pytest.raises(GateRefused, match="'mystery', which is not registered; known generators: discrimination, "):
        gates.validate(dataset)
    retry(workspace, dataset.key, scored=())
    thresholds = settings.validation.model_copy(update={"allow_unregistered_generators": True})
    lenient = settings.model_copy(update={"validation": thresholds})
    validated = Gates.build(lenient, workspace, Renderer.load(tiny_folder, "plain")).validate(dataset)

    assert validated.generator_id == "manual"


def test_rows_unlike_what_the_generator_made_before_are_reported(gates: Gates, drop: Drop) -> None:
    gates.validate(drop(*prose(150)))
    shorter = prose(150, 1)
    for row in shorter:
        row["messages"][1]["content"] = row["messages"][1]["content"][:30]
    validated = gates.validate(drop(*shorter, name="shorter.jsonl"))

    assert "drift" in {one["rule"] for one in validated.report["problems"]}


def test_what_other_versions_of_the_gates_let_pass_is_out_of_date(
    gates: Gates, drop: Drop, workspace: Workspace
) -> None:
    dataset = drop(*generated(10))
    validated = gates.validate(dataset)
    assert up_to_date(workspace, [dataset.key]) == {dataset.key}

    manifest = validated.folder / "manifest.json"
    older = json.loads(manifest.read_text()) | {"validators": {"data_validator": "0.1.0"}}
    manifest.write_text(json.dumps(older))
    os.utime(manifest, (1e9, 1e9))
    assert up_to_date(workspace, [dataset.key]) == set()
    gates.validate(dataset)
    assert up_to_date(workspace, [dataset.key]) == {dataset.key}


def test_what_does_not_pass_any_more_is_withdrawn_from_training(
    gates: Gates, settings: Settings, workspace: Workspace, tiny_folder: Path, drop: Drop
) -> None:
    dataset = drop(*generated(30), "{")
    accepted = gates.validate(dataset)
    thresholds = settings.validation.model_copy(update={"max_rejected_share": 0.0})
    stricter = settings.model_copy(update={"validation": thresholds})
    with pytest.raises(GateRefused):
        Gates.build(stricter, workspace, Renderer.load(tiny_folder, "plain")).validate(dataset)

    with pytest.raises(ArtifactInvalid):
        read_validated(workspace, dataset.key)
    assert (workspace.quarantine / dataset.key / "withdrawn" / accepted.rows_sha256[:8] / "rows.parquet").is_file()
    assert up_to_date(workspace, [dataset.key]) == set()
    with RowHistory.open(workspace.row_history, read_only=True) as history:
        assert dataset.key not in history.datasets()


def test_accepted_rows_are_kept_when_others_replace_them_and_when_they_are_withdrawn(
    gates: Gates, gates_with: GatesWith, drop: Drop, workspace: Workspace
) -> None:
    rows = generated(30)
    dataset = drop(*rows)
    longest = max(map(len, dataset.data_path.read_bytes().splitlines()))
    whole = gates.validate(dataset)
    gates.validate(dataset)
    assert len(read_versions(workspace, dataset.key)) == 1, "the same rows are no other version"

    fewer = gates_with(max_row_bytes=longest - 1, max_rejected_share=0.9).validate(dataset)
    assert fewer.rows_sha256 != whole.rows_sha256
    assert [(one.rows_sha256, one.since) for one in read_versions(workspace, dataset.key)] == [
        (fewer.rows_sha256, None),
        (whole.rows_sha256, "replaced"),
    ]
    assert up_to_date(workspace, [dataset.key]) == {dataset.key}

    with pytest.raises(GateRefused):
        gates_with(max_row_bytes=10).validate(dataset)
    versions = read_versions(workspace, dataset.key)
    assert {one.rows_sha256 for one in versions} == {whole.rows_sha256, fewer.rows_sha256}
    assert {(one.key, one.since) for one in versions} == {(dataset.key, "withdrawn")}
    assert all(len(pl.read_parquet(one.rows_path)) == one.rows for one in versions)
    assert up_to_date(workspace, [dataset.key]) == set()

    gates.validate(dataset)
    assert [(one.rows_sha256, one.since) for one in read_versions(workspace, dataset.key)] == [
        (whole.rows_sha256, None),
        (fewer.rows_sha256, "replaced"),
    ]
    assert up_to_date(workspace, [dataset.key]) == {dataset.key}


def refuse_by_sidecar(gates: Gates, dataset: Dataset) -> None:
    """Validate it again with a sidecar that the spec gate refuses."""
    (dataset.folder / "sidecar.json").write_text('{"generator_id": "nobody"}')
    with pytest.raises(GateRefused, match="not registered"):
        gates.validate(find_dataset(gates.workspace, dataset.key))


def refuse_by_the_disk(gates: Gates, dataset: Dataset) -> None:
    """Validate it again where its data cannot be read any more."""
    dataset.data_path.unlink()
    with pytest.raises(GateRefused, match="cannot be read"):
        gates.validate(find_dataset(gates.workspace, dataset.key))


@pytest.mark.parametrize("refuse", [refuse_by_sidecar, refuse_by_the_disk])
def test_a_dataset_that_any_gate_refuses_is_no_longer_compared_with(
    refuse: Callable[[Gates, Dataset], None], gates: Gates, drop: Drop, workspace: Workspace
) -> None:
    rows = prose(40)
    first = drop(*rows)
    gates.validate(first)
    assert gates.past.lengths("manual", excluding="") is not None

    refuse(gates, first)

    with RowHistory.open(workspace.row_history, read_only=True) as history:
        assert history.datasets() == {}
    assert gates.past.lengths("manual", excluding="") is None
    assert duplicates_in(gates.validate(drop(*rows[:10], name="again.jsonl"))) == {}
