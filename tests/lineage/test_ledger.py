"""What the ledger counts: validations each time, rows once a dataset."""

import json

import pytest

from gpu_assets.datasets.validations import Validation
from gpu_assets.lineage.ledger import build_ledger
from tests.lineage.support import make_validation


def test_no_validations_make_an_empty_ledger() -> None:
    value = build_ledger([]).to_lineage_json()

    assert (value["total_validations"], value["last_updated"], value["generators"]) == (0, None, {})
    assert value["summary"]["worst_generator"] is None
    assert value["summary"]["overall_fail_rate"] == 0.0


def test_the_shape_is_the_predecessors_with_rows_added() -> None:
    value = build_ledger(
        [
            make_validation("a", rejected=3),
            make_validation("b", passed=False, rejected=50, at="2026-01-02T10:00:00+00:00"),
            make_validation("c", generator_id="manual", generator_version=None),
        ]
    ).to_lineage_json()

    assert value["total_validations"] == 3
    generator = value["generators"]["curriculum@1.0.0"]
    assert {name: generator[name] for name in ("total", "passed", "failed", "fail_rate", "last_seen")} == {
        "total": 2,
        "passed": 1,
        "failed": 1,
        "fail_rate": 50.0,
        "last_seen": "2026-01-02T10:00:00+00:00",
    }
    assert generator["by_validator"] == {"content_validator@2.0.0": {"total": 2, "passed": 1, "failed": 1}}
    assert generator["top_errors"] == {"empty_content": 53}
    assert generator["rows"] == {
        "total": 200,
        "accepted": 97,
        "rejected": 53,
        "refused_with_file": 50,
        "rejected_rate": 51.5,
        "rejected_by_rule": {"empty_content": 53},
    }
    assert generator["tokens"] == 970, "of rows that went on"
    assert "manual@?" in value["generators"]
    validator = value["validators"]["content_validator@2.0.0"]
    assert validator["by_generator"]["manual@?"] == {"total": 1, "passed": 1, "failed": 0}
    assert value["summary"]["total_generators"], value["summary"]["total_validators"] == (2, 1)
    assert value["summary"]["overall_fail_rate"] == 33.33
    json.dumps(value)


def test_a_second_look_at_a_dataset_is_a_validation_and_corrects_its_rows() -> None:
    ledger = build_ledger(
        [
            make_validation("a", rejected=20),
            make_validation("a", rejected=1, validators={"content_validator": "2.1.0"}),
        ]
    )

    entry = ledger.generators["curriculum@1.0.0"]
    assert (entry.verdicts.total, entry.datasets, entry.rows.total, entry.rows.rejected) == (2, 1, 100, 1)
    assert {name: entry.rows.rejected for name, entry in ledger.validators.items()} == {
        "content_validator@2.0.0": 20,
        "content_validator@2.1.0": 1,
    }


def test_after_a_corrected_sidecar_the_rows_are_the_named_generators() -> None:
    ledger = build_ledger(
        [
            make_validation("a", generator_id="manual", generator_version=None, generator_inferred=True),
            make_validation("a", generator_id="syllo_api"),
        ]
    )

    assert ledger.generators["manual@?"].rows.total == 0
    assert ledger.generators["manual@?"].verdicts.total == 1
    assert ledger.generators["syllo_api@1.0.0"].rows.total == 100


@pytest.mark.parametrize(
    ("datasets", "rejected", "is_offender"),
    [(10, 8, True), (9, 8, False), (10, 5, False), (10, 6, True), (200, 0, False)],
)
def test_an_offender_lost_over_five_percent_of_its_rows_in_ten_datasets_or_more(
    datasets: int, rejected: int, is_offender: bool
) -> None:
    ledger = build_ledger(make_validation(f"d{n}", rejected=rejected) for n in range(datasets))

    assert [entry.id for entry in ledger.worst_offenders] == (["curriculum@1.0.0"] if is_offender else [])


def test_rows_that_went_down_with_their_file_count_as_lost() -> None:
    refused = [make_validation(f"r{n}", passed=False, rejected=0) for n in range(1)]
    ledger = build_ledger([*refused, *(make_validation(f"d{n}") for n in range(9))])

    (offender,) = ledger.worst_offenders
    assert (offender.rows.rejected, offender.rows.refused_with_file, offender.rows.lost_share) == (0, 100, 0.1)


def refused_at_the_spec_gate(key: str, **changes: object) -> Validation:
    return make_validation(key, rows=0, passed=False, schema=None, level=None, **changes)


@pytest.mark.parametrize(("refused", "datasets", "is_offender"), [(12, 12, True), (4, 48, True), (2, 40, False)])
def test_an_offender_had_over_five_percent_of_its_datasets_refused(
    refused: int, datasets: int, is_offender: bool
) -> None:
    made = [refused_at_the_spec_gate(f"r{n}") for n in range(refused)]
    ledger = build_ledger([*made, *(make_validation(f"d{n}") for n in range(datasets - refused))])

    entry = ledger.generators["curriculum@1.0.0"]
    assert (entry.rows.lost, entry.datasets_refused, entry.datasets) == (0, refused, datasets)
    assert [found.id for found in ledger.worst_offenders] == (["curriculum@1.0.0"] if is_offender else [])


def test_a_dataset_that_is_validated_ten_times_accuses_nobody() -> None:
    ledger = build_ledger([make_validation("a", rejected=60) for _ in range(10)])

    assert ledger.worst_offenders == []
    assert ledger.to_lineage_json()["summary"]["worst_generator"] is None


def test_a_dataset_counts_as_refused_by_its_newest_validation() -> None:
    made = [refused_at_the_spec_gate(f"d{n}") for n in range(10)]
    ledger = build_ledger([*made, *(make_validation(f"d{n}") for n in range(10))])

    assert ledger.generators["curriculum@1.0.0"].datasets_refused == 0
    assert ledger.worst_offenders == []


def test_nobody_is_the_worst_where_nothing_was_lost() -> None:
    summary = build_ledger(make_validation(f"d{n}") for n in range(10)).to_lineage_json()["summary"]

    assert (summary["worst_generator"], summary["worst_validator"]) == (None, None)


def test_a_generator_whose_files_are_all_refused_is_worse_than_one_that_loses_rows() -> None:
    made = [make_validation(f"d{n}", rejected=9) for n in range(10)]
    made += [refused_at_the_spec_gate(f"r{n}", generator_id="syllo_api") for n in range(10)]

    ledger = build_ledger(made)

    assert [entry.id for entry in ledger.worst_offenders] == ["syllo_api@1.0.0", "curriculum@1.0.0"]
    assert ledger.to_lineage_json()["summary"]["worst_generator"]["id"] == "syllo_api@1.0.0"


def test_the_worst_generator_is_the_one_that_lost_the_largest_share_among_those_known_well() -> None:
    made = [make_validation(f"d{n}", rejected=2) for n in range(10)]
    made += [make_validation(f"e{n}", rejected=9, generator_id="syllo_local") for n in range(10)]
    made += [make_validation("f", rejected=90, generator_id="binary_api")]

    summary = build_ledger(made).to_lineage_json()["summary"]

    assert summary["worst_generator"] == {
        "id": "syllo_local@1.0.0",
        "fail_rate": 0.0,
        "rejected_rate": 9.0,
        "total": 10,
    }
    assert [entry["id"] for entry in summary["worst_offenders"]] == ["syllo_local@1.0.0"]


def test_a_day_counts_its_validations_and_all_rows_as_known_when_it_ended() -> None:
    ledger = build_ledger(
        [
            make_validation("a", rejected=10),
            make_validation("b", rejected=30),
            make_validation("b", rejected=2, at="2026-01-03T01:00:00+02:00"),
        ]
    )

    assert [(day.day, day.validations, day.rows, day.rows_lost) for day in ledger.over_time] == [
        ("2026-01-01", 2, 200, 40),
        ("2026-01-02", 1, 200, 12),
    ]
    assert [share for _, share in ledger.shares["curriculum@1.0.0"]] == [0.1, 0.2, 0.06]
    entry = ledger.generators["curriculum@1.0.0"]
    assert (ledger.over_time[-1].rows, ledger.over_time[-1].rows_lost) == (entry.rows.total, entry.rows.lost)
