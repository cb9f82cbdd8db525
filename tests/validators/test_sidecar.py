import json
from datetime import datetime

import pytest

from gpu_assets.errors import DatasetInvalid
from validators import Sidecar, read_sidecar

EXAMPLE = {
    "generator_id": "syllo_api",
    "generator_version": "1.0.0",
    "generated_at": "2025-11-26T08:00:00",
    "example_count": 100,
    "params": {"level": 3},
}


def test_a_missing_sidecar_means_a_manual_dataset(tmp_path):
    for missing in (None, tmp_path / "train_syllo.jsonl.meta.json"):
        assert read_sidecar(missing) == Sidecar(generator_id="manual", inferred=True)


def test_the_fields_are_typed(tmp_path):
    path = tmp_path / "a.meta.json"
    path.write_text(json.dumps({**EXAMPLE, "schema_id": "syllo_v1", "priority": "high"}))
    sidecar = read_sidecar(path)

    assert sidecar.generated_at == datetime(2025, 11, 26, 8)
    assert (sidecar.example_count, sidecar.params) == (100, {"level": 3})
    assert (sidecar.schema_id, sidecar.priority, sidecar.inferred) == ("syllo_v1", "high", False)
    assert sidecar.to_json() == {**EXAMPLE, "schema_id": "syllo_v1", "priority": "high"}


@pytest.mark.parametrize("content", [b"{}", b'\xef\xbb\xbf{"schema_id": "completion_v1"}', b' {"priority": null}\r\n'])
def test_a_sidecar_that_names_no_generator_is_manual(tmp_path, content):
    path = tmp_path / "a.meta.json"
    path.write_bytes(content)

    assert (read_sidecar(path).generator_id, read_sidecar(path).inferred) == ("manual", True)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not JSON"),
        (b"generator_id: manual", "is not JSON"),
        (b'{"generator_id": "a"', "is not JSON"),
        (b"[" * 100_000, "is not a JSON object"),
        (b'{"extra": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is not JSON: .*recursion"),
        (b'{"params": {"rate": NaN}}', "is not JSON"),
        (b"[1]", "is not a JSON object: .*array"),
        (b"null", "is not a JSON object"),
        (b'{"generator_id": "\xff"}', "is not UTF-8: invalid start byte at byte 18"),
        (b'{"generator": "a"}', "unknown key generator; known keys: example_count, extra"),
        (b'{"inferred": true}', "unknown key inferred"),
        (b'{"generator_id": 5}', r"Expected `str`, got `int` - at `\$.generator_id`"),
        (b'{"example_count": -1}', "example_count"),
        (b'{"example_count": "7"}', "example_count"),
        (b'{"priority": "urgent"}', "priority"),
        (b'{"generated_at": "yesterday"}', "generated_at"),
        (b'{"params": []}', "params"),
        (b'{"validator_versions": {"a": 1}}', "validator_versions"),
        (b'{"extra": {"size": 1e999}}', "does not fit"),
        (b'{"source": "' + b"a" * 2**20 + b'"}', "over 1048576 bytes"),
    ],
)
def test_a_sidecar_that_is_wrong_is_refused_with_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "a.meta.json"
    path.write_bytes(content)

    with pytest.raises(DatasetInvalid, match=sentence) as refusal:
        read_sidecar(path)
    assert str(path) in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_a_sidecar_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DatasetInvalid, match="cannot be read"):
        read_sidecar(tmp_path)
