"""What is installed, and from which versions."""

import re
import tomllib
from typing import Any

import dagster as dg
import pytest
import yaml

from gpu_assets.settings import PROJECT_ROOT

ROOTS = ("gpu_assets", "resources", "sensors", "serving", "validators")
HEAVY = {"torch", "transformers", "accelerate", "datasets", "trl", "peft", "vllm"}


@pytest.fixture
def pyproject() -> dict[str, Any]:
    return tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())


@pytest.fixture
def lock() -> list[str]:
    lines = (PROJECT_ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ;]", requirement, maxsplit=1)[0]).lower()


def test_every_package_is_listed(pyproject: dict[str, Any]) -> None:
    found = {
        str(file.parent.relative_to(PROJECT_ROOT)).replace("/", ".")
        for root in ROOTS
        for file in (PROJECT_ROOT / root).rglob("*.py")
    }

    assert sorted(pyproject["tool"]["setuptools"]["packages"]) == sorted(found)


def test_no_table_hides_workspace_yaml_from_dagster(pyproject: dict[str, Any]) -> None:
    assert not {"dagster", "dg"} & set(pyproject["tool"])


def test_heavy_libraries_are_banned_at_module_level(pyproject: dict[str, Any]) -> None:
    rules = pyproject["tool"]["ruff"]["lint"]["flake8-tidy-imports"]

    assert set(rules["banned-module-level-imports"]) >= HEAVY


def test_the_lock_pins_every_version_and_names_no_index(lock: list[str]) -> None:
    assert [
        line for line in lock if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][a-z0-9.]*( ; python_version .*)?", line)
    ] == []


def test_the_lock_leaves_the_build_of_torch_to_the_platform(lock: list[str]) -> None:
    assert "torch==2.13.0" in lock
    assert [line for line in lock if re.match(r"nvidia-[^m]|cuda-|triton", line)] == []


def test_the_lock_holds_all_that_is_asked_for(pyproject: dict[str, Any], lock: list[str]) -> None:
    project = pyproject["project"]
    asked = {
        name_of(requirement) for requirement in (*project["dependencies"], *project["optional-dependencies"]["dev"])
    }

    assert asked - {name_of(line) for line in lock} == set()


def test_the_workspace_has_a_location_for_each_host() -> None:
    workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())
    modules = [entry["python_module"] for entry in workspace["load_from"]]

    assert {module["location_name"]: module["module_name"] for module in modules} == {
        "trainer": "gpu_assets.trainer",
        "inference": "gpu_assets.inference",
    }


def test_the_instance_loads_with_queue_pools_and_monitoring(tmp_path: Any) -> None:
    (tmp_path / "dagster.yaml").symlink_to(PROJECT_ROOT / "dagster.yaml")

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit == 1
        assert concurrency.pool_config.pool_granularity is not None
        assert concurrency.pool_config.pool_granularity.value == "run"
        assert instance.run_coordinator.dequeue_interval_seconds == 1  # type: ignore[attr-defined]
        assert instance.run_monitoring_enabled
        assert not instance.telemetry_enabled
