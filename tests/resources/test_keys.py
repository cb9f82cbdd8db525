"""Keys: the environment's first, else made once and readable by their owner only."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from gpu_assets.errors import SettingsError
from gpu_assets.settings import Settings, load_settings
from resources.keys import InferenceKeys, inference_keys, key_file


def test_keys_are_made_once_and_kept(settings: Settings) -> None:
    first = inference_keys(settings)
    assert inference_keys(settings) == first
    assert first.read != first.admin
    assert min(len(first.read), len(first.admin)) >= 40


def test_another_home_has_other_keys(settings: Settings, tmp_path: Path) -> None:
    other = settings.model_copy(update={"home": tmp_path / "other"})
    assert inference_keys(other) != inference_keys(settings)


def test_the_file_can_be_read_by_its_owner_only_and_lies_alone(settings: Settings) -> None:
    inference_keys(settings)
    path = key_file(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused_with_the_command_that_helps(settings: Settings, mode: int) -> None:
    inference_keys(settings)
    path = key_file(settings)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=f"can be read by others; run: chmod 600 {path}"):
        inference_keys(settings)
    path.chmod(0o600)
    inference_keys(settings)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"read": "only"}', "null", '{"read": "", "admin": "a"}', '{"read": "a", "admin": "a"}'],
)
def test_a_file_that_holds_no_keys_is_refused_and_left(settings: Settings, content: str) -> None:
    path = key_file(settings)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="is not a key file; delete it and new keys are made"):
        inference_keys(settings)
    assert path.read_text() == content


def test_the_environments_keys_win_and_no_file_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_READ_KEY", "read from outside")
    monkeypatch.setenv("INFERENCE_ADMIN_KEY", "admin from outside")
    settings = load_settings()
    assert inference_keys(settings) == InferenceKeys.of("read from outside", "admin from outside")
    assert not key_file(settings).exists()


@pytest.mark.parametrize(("variable", "field"), [("INFERENCE_READ_KEY", "read"), ("INFERENCE_ADMIN_KEY", "admin")])
def test_of_the_environments_keys_one_alone_wins_over_the_kept_one(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, variable: str, field: str
) -> None:
    kept = inference_keys(settings)
    monkeypatch.setenv(variable, "from outside")
    found = inference_keys(load_settings())
    other = "admin" if field == "read" else "read"
    assert getattr(found, field) == "from outside"
    assert getattr(found, other) == getattr(kept, other)


@pytest.mark.parametrize("variable", ["INFERENCE_READ_KEY", "INFERENCE_ADMIN_KEY"])
def test_a_key_of_the_environment_that_is_the_other_kept_one_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    kept = inference_keys(settings)
    monkeypatch.setenv(variable, kept.admin if variable == "INFERENCE_READ_KEY" else kept.read)
    with pytest.raises(SettingsError, match=f"{variable} is the .* key of .*: set another one"):
        inference_keys(load_settings())


def test_keys_are_shown_in_no_text(settings: Settings) -> None:
    keys = inference_keys(settings)
    for text in (repr(keys), str(keys), f"{keys}", repr([keys]), repr(keys.keys[0])):
        assert keys.read not in text and keys.admin not in text


def write_keys(settings: Settings, kept: object) -> Path:
    path = key_file(settings)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(kept))
    path.chmod(0o600)
    return path


def test_a_variable_may_hold_several_keys_between_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_READ_KEY", "one, two,three")
    monkeypatch.setenv("INFERENCE_ADMIN_KEY", "four")
    keys = inference_keys(load_settings())
    assert [(key.name, key.value) for key in keys.of_access("read")] == [
        ("read-1", "one"),
        ("read-2", "two"),
        ("read-3", "three"),
    ]
    assert (keys.read, keys.admin) == ("one", "four")


def test_the_file_may_hold_several_keys_with_and_without_names(settings: Settings) -> None:
    write_keys(settings, {"read": [{"name": "laptop", "key": "r1"}, "r2", {"key": "r3"}], "admin": "a"})
    keys = inference_keys(settings)
    found = {key.value: (key.name, key.access) for key in keys.keys}
    assert found == {
        "r1": ("laptop", "read"),
        "r2": ("read-2", "read"),
        "r3": ("read-3", "read"),
        "a": ("admin-1", "admin"),
    }


def test_a_key_is_found_by_its_bytes_and_by_nothing_else(settings: Settings) -> None:
    keys = InferenceKeys.of(["first", "second"], ["schlüssel"])
    assert [key and key.name for key in map(keys.find, (b"second", "schlüssel".encode(), b"first"))] == [
        "read-2",
        "admin-1",
        "read-1",
    ]
    assert [keys.find(presented) for presented in (b"", b"firs", b"first ", b"first,second")] == [None] * 4


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ({"read": [], "admin": "a"}, "read holds no key"),
        ({"read": ["r", " x"], "admin": "a"}, r"mend read\[1\]"),
        ({"read": ["r", {"name": "my laptop", "key": "x"}], "admin": "a"}, r"mend read\[1\]"),
        ({"read": "r", "admin": {"name": "me", "kye": "x"}}, r"mend admin\[0\]"),
        ({"read": ["r", {"name": "read-1", "key": "x"}], "admin": "a"}, "names two keys 'read-1'"),
        ({"read": ["r", "s"], "admin": ["a", "s"]}, "one key is there twice"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_by_its_place(settings: Settings, kept: object, sentence: str) -> None:
    path = write_keys(settings, kept)
    with pytest.raises(SettingsError, match=sentence) as refused:
        inference_keys(settings)
    assert str(path) in str(refused.value)


def make_keys(home: Path) -> InferenceKeys:
    return inference_keys(load_settings({"home": str(home)}))


def test_of_several_processes_that_start_first_one_wins_and_all_have_its_keys(settings: Settings) -> None:
    with get_context("spawn").Pool(4) as pool:
        found = pool.map(make_keys, [settings.home] * 8)
    assert len(set(found)) == 1
    kept = json.loads(key_file(settings).read_text())
    assert found[0] == InferenceKeys.of(kept["read"], kept["admin"])


def test_of_several_threads_that_start_first_one_wins_and_all_have_its_keys(settings: Settings) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: inference_keys(settings), range(64)))
    assert len(set(found)) == 1
