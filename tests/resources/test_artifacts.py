"""Artifacts: complete exactly when the manifest exists, and never seen in part."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from gpu_assets.errors import ArtifactInvalid
from resources.artifacts import is_complete, publishing, read_manifest, sha256_json, weights_sha256, write_json


def publish(final: Path, content: str) -> None:
    with publishing(final) as folder:
        (folder / "data").write_text(content)
        write_json(folder / "manifest.json", {"kind": "test", "content": content})


def test_a_published_folder_has_its_manifest_and_no_temporary_beside_it(tmp_path: Path) -> None:
    publish(tmp_path / "a", "one")
    assert read_manifest(tmp_path / "a", "test")["content"] == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_error_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="disk"), publishing(tmp_path / "a") as folder:
        (folder / "data").write_text("half")
        raise RuntimeError("disk")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_manifest_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ArtifactInvalid, match="without its manifest.json"), publishing(tmp_path / "a") as folder:
        (folder / "data").write_text("all")
    assert not (tmp_path / "a").exists()


def test_publishing_again_replaces_the_whole_folder(tmp_path: Path) -> None:
    publish(tmp_path / "a", "one")
    (tmp_path / "a" / "stale").touch()
    publish(tmp_path / "a", "two")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"data", "manifest.json"}
    assert (tmp_path / "a" / "data").read_text() == "two"


def test_a_writer_killed_at_any_moment_never_leaves_a_folder_that_reads_as_complete_and_is_not(tmp_path: Path) -> None:
    for attempt in range(5):
        final = tmp_path / f"a{attempt}"
        process = multiprocessing.get_context("spawn").Process(target=_publish_slowly, args=(final,))
        process.start()
        deadline = time.monotonic() + 30
        while not any(tmp_path.glob(f".a{attempt}.*")) and not final.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02 * attempt)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        if final.exists():
            assert is_complete(final)
            assert len(list(final.glob("part-*"))) == 20


def _publish_slowly(final: Path) -> None:
    with publishing(final) as folder:
        for part in range(20):
            (folder / f"part-{part}").write_bytes(os.urandom(1000))
            time.sleep(0.003)
        write_json(folder / "manifest.json", {"kind": "test"})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "has no manifest.json: it is incomplete or not ours"),
        ("{", "is not JSON"),
        ('{"kind": "other"}', "is of kind 'other', wanted 'test'"),
        ("[1]", "is of kind 'list', wanted 'test'"),
    ],
)
def test_a_folder_that_is_not_what_was_asked_for_is_refused_by_name(
    tmp_path: Path, content: str | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ArtifactInvalid, match=sentence) as refused:
        read_manifest(tmp_path, "test")
    assert str(tmp_path) in str(refused.value)


def test_json_identity_ignores_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json(json.loads('{"b": [2], "a": 1}'))


def test_weights_are_identified_by_their_files_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(b"one")
    single = weights_sha256(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"two")
    sharded = weights_sha256(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"TWO")
    assert len({single, sharded, weights_sha256(tmp_path)}) == 3


def test_a_folder_without_safetensors_has_no_identity(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ArtifactInvalid, match="only safetensors weights are loaded"):
        weights_sha256(tmp_path)
