"""A validation survives its event, and nothing else passes for one."""

import json

import pytest

from gpu_assets.datasets.validations import Validation
from gpu_assets.errors import ArtifactInvalid
from tests.lineage.support import make_validation


@pytest.mark.parametrize("changes", [{}, {"schema": None, "level": None, "rows": 0, "generator_version": None}])
def test_what_is_written_is_read_back(changes: dict[str, object]) -> None:
    validation = make_validation(**changes)  # type: ignore[arg-type]

    assert Validation.from_json(json.loads(json.dumps(validation.to_json()))) == validation


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"rows": "100"},
        {"passed": None},
        {"accepted": 99},
        {"rejected_by_rule": {"empty_content": 1}},
        {"tokens": -1},
        {"at": "2026-01-01T10:00:00"},
        {"at": "yesterday"},
        {"validators": ["content_validator"]},
    ],
)
def test_another_shape_is_refused_by_the_datasets_name(changes: dict[str, object]) -> None:
    with pytest.raises(ArtifactInvalid, match="'a'"):
        Validation.from_json({**make_validation("a").to_json(), **changes})


@pytest.mark.parametrize("value", [None, [], "x", {}])
def test_what_is_no_object_of_a_validation_is_refused(value: object) -> None:
    with pytest.raises(ArtifactInvalid):
        Validation.from_json(value)


def test_a_missing_field_is_named() -> None:
    value = make_validation().to_json()
    del value["duplicates"]

    with pytest.raises(ArtifactInvalid, match="duplicates"):
        Validation.from_json(value)
