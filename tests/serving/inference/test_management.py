"""Our own endpoints: what is registered and held, and what the server runs on."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import PROJECT_ROOT
from resources.artifacts import weights_sha256
from serving.inference.host import gpus, host
from serving.inference.registry import REGISTRY_FILE, IdReserved, Registry
from tests.serving.inference.support import (
    CHAT,
    READ_KEY,
    VALID,
    Inspect,
    Models,
    Server,
    error_of,
    write_model,
)


def test_a_registered_model_is_listed_loaded_by_its_id_and_asked_by_it(
    first_is_champion: Server, models: Models
) -> None:
    registering = {"id": "a-favourite", "source": str(models.second), "tags": ["kept"]}
    registered = first_is_champion.request("POST", "/models/register", json=registering)
    assert registered.status_code == 200
    listed = {model["id"]: model for model in first_is_champion.request("GET", "/models").json()["models"]}
    assert listed["a-favourite"] == {
        "id": "a-favourite",
        "path": str(models.second),
        "source": str(models.second),
        "weights_sha256": weights_sha256(models.second),
        "created_at": registered.json()["created_at"],
        "tags": ["kept"],
        "is_loaded": False,
        "is_active": False,
    }
    assert listed["first"]["is_active"] and listed["first"]["is_loaded"]
    assert first_is_champion.request("POST", CHAT, json=VALID | {"model": "a-favourite"}).status_code == 404

    assert first_is_champion.request("POST", "/models/pool/load", json={"id": "a-favourite"}).json()["name"] == "second"
    answer = first_is_champion.request("POST", CHAT, json=VALID | {"model": "a-favourite"}).json()
    assert answer["system_fingerprint"] == weights_sha256(models.second)
    assert first_is_champion.request("GET", "/models/active").json()["active_model"] == "first"

    flipped = first_is_champion.request("POST", "/models/set_active", json={"id": "a-favourite"}).json()
    assert (flipped["status"], flipped["checkpoint_step"], flipped["model_id"]) == ("reloaded", 20, "second")
    assert first_is_champion.request("GET", "/models/active").json() == {
        "active_model": "second",
        "weights_sha256": weights_sha256(models.second),
        "checkpoint_step": 20,
    }
    back = first_is_champion.request("POST", "/models/set_active", json={"id": weights_sha256(models.first)})
    assert back.json()["name"] == "first"


def test_a_registered_model_that_is_not_held_is_loaded_when_it_is_made_active(
    first_is_champion: Server, models: Models
) -> None:
    first_is_champion.request("POST", "/models/register", json={"id": "third-one", "source": str(models.third)})
    assert first_is_champion.request("POST", "/models/set_active", json={"id": "third-one"}).json()["name"] == "third"
    kept = json.loads((first_is_champion.home / "serving" / REGISTRY_FILE).read_text())
    assert "third-one" in [model["id"] for model in kept["models"]]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/models/register", {"id": "champion", "source": "{first}"}, 400, "id"),
        ("/models/register", {"id": "checkpoint-7", "source": "{first}"}, 400, "id"),
        ("/models/register", {"id": "0123abcd" * 8, "source": "{first}"}, 400, "id"),
        ("/models/register", {"id": "a/b", "source": "{first}"}, 400, "id"),
        ("/models/register", {"id": "", "source": "{first}"}, 400, "id"),
        ("/models/register", {"id": "x", "source": "/nowhere"}, 400, "source"),
        ("/models/register", {"id": "x"}, 400, "source"),
        ("/models/register", {"id": "x", "source": "{first}", "tags": "one"}, 400, "tags"),
        ("/models/set_active", {"id": "nobody"}, 404, None),
        ("/models/set_active", {}, 400, "id"),
        ("/models/pool/load", {}, 400, "model_path"),
        ("/models/pool/load", {"id": "a", "model_path": "b"}, 400, "model_path"),
        ("/models/pool/load", {"id": "nobody"}, 404, None),
    ],
)
def test_what_is_wrong_with_a_body_is_named(
    path: str, body: dict[str, str], status: int, param: str | None, first_is_champion: Server, models: Models
) -> None:
    content = {key: str(models.first) if value == "{first}" else value for key, value in body.items()}
    response = first_is_champion.request("POST", path, json=content)
    assert (response.status_code, error_of(response)["param"]) == (status, param)


@pytest.mark.parametrize("path", ["/gpu", "/system", "/models/register", "/models/set_active"])
def test_the_read_key_neither_changes_anything_nor_looks_at_the_host(path: str, server: Server) -> None:
    method = "GET" if path in ("/gpu", "/system") else "POST"
    response = server.request(method, path, key=READ_KEY, **({} if method == "GET" else {"json": {}}))
    assert response.status_code == 403


def test_the_pool_counts_requests_and_memory(first_is_champion: Server) -> None:
    def pool() -> dict[str, object]:
        response = first_is_champion.request("GET", "/models/pool", key=READ_KEY)
        found: dict[str, object] = response.json()
        return found

    def first() -> dict[str, object]:
        (entry,) = pool()["models"]  # type: ignore[misc]
        found: dict[str, object] = entry
        return found

    before = first()["request_count"]
    first_is_champion.request("POST", CHAT, json=VALID)
    after = first()
    assert isinstance(before, int) and after["request_count"] == before + 1
    assert after["last_used"] is not None and after["engine"] == "hf"
    assert pool()["max_models"] == 3
    assert pool()["total_memory_bytes"] == (after["memory_bytes"] or 0)


def test_info_has_what_older_clients_read(first_is_champion: Server, models: Models) -> None:
    info = first_is_champion.request("GET", "/models/info", key=READ_KEY).json()
    assert (info["model_id"], info["weights_sha256"]) == ("first", weights_sha256(models.first))
    assert {"checkpoint_step", "vram_usage_gb", "memory_bytes", "template_sha256", "profile", "loaded_at"} <= set(info)


def test_versions_are_those_that_are_installed(server: Server) -> None:
    versions = server.request("GET", "/version", key=READ_KEY).json()
    assert versions["torch"] == importlib.metadata.version("torch")
    assert versions["transformers"] == importlib.metadata.version("transformers")
    assert versions["python"] == sys.version.split()[0]
    assert versions["api"] == "v1"


def test_the_host_is_described_and_without_a_gpu_it_says_why(server: Server) -> None:
    system = server.request("GET", "/system").json()
    assert system["memory_total_bytes"] > system["memory_available_bytes"] > 0
    assert 0 < system["process_rss_bytes"] < system["memory_total_bytes"]
    assert system["disk_free_bytes"] > 0
    gpu = server.request("GET", "/gpu").json()
    assert gpu["available"] is (gpu["device_count"] > 0)
    assert gpu["available"] or gpu["why"]


def test_a_home_that_is_not_there_yet_is_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    assert host(tmp_path / "home" / "of" / "nobody").disk_total_bytes == host(tmp_path).disk_total_bytes
    assert gpus().device_count == len(gpus().gpus)


def test_neither_versions_nor_gpus_import_torch() -> None:
    program = (
        "import sys; from pathlib import Path; from serving.inference.host import gpus, host, versions; "
        "versions('1'), gpus(), host(Path('.')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=PROJECT_ROOT, timeout=60).returncode == 0


def test_registrations_survive_and_the_id_moves_to_what_it_was_given_last(
    tmp_path: Path, models: Models, inspect: Inspect
) -> None:
    file = tmp_path / "serving" / REGISTRY_FILE
    registry = Registry(file)
    for folder in (models.first, models.second):
        registry.register("mine", str(folder), inspect(folder), [])
    registry.register("other", "x", inspect(models.third), ["a"])
    again = Registry(file)
    assert again.models == registry.models
    mine = again.get("mine")
    assert mine is not None and mine.weights_sha256 == weights_sha256(models.second)
    with pytest.raises(IdReserved, match="'checkpoint-20'"):
        again.register("checkpoint-20", "x", inspect(models.third), [])


@pytest.mark.parametrize("content", ["{", '{"models": [{"id": 1}], "format": 1}', "[]"])
def test_a_list_of_registered_models_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / REGISTRY_FILE
    file.write_text(content)
    with pytest.raises(ArtifactInvalid, match="is not a list of registered models"):
        Registry(file)


def test_an_id_stands_for_weights_and_not_for_what_its_folder_comes_to_hold(
    first_is_champion: Server, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "changing", seed=11, step=60)
    first_is_champion.request("POST", "/models/register", json={"id": "changing", "source": str(folder)})
    (folder / "model.safetensors").unlink()
    write_model(tmp_path / "new", seed=12, step=61)
    for path in (tmp_path / "new").iterdir():
        path.replace(folder / path.name)
    refused = first_is_champion.request("POST", "/models/set_active", json={"id": "changing"})
    assert refused.status_code == 409
    assert "it was changed since" in error_of(refused)["message"]
    assert first_is_champion.client.info().name == "first"
