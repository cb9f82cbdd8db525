"""The systemd units are what systemd takes, and start what there is."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_assets.settings import PROJECT_ROOT

UNITS = sorted((PROJECT_ROOT / "deploy").glob("*.service"))
INSTALLED, HOME = "/opt/gpu-assets", "/var/lib/gpu-assets"


def values(unit: Path, name: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith(f"{name}=")]


def test_there_is_one_for_the_platform_and_one_for_the_server_alone() -> None:
    assert [unit.name for unit in UNITS] == ["gpu-assets-inference.service", "gpu-assets.service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    """Of a copy whose program, user and folders exist here."""
    changed = unit.read_text().replace("User=gpu-assets", "User=root").replace("Group=gpu-assets", "Group=root")
    for program in (f"{INSTALLED}/.venv/bin/gpu-assets", f"{INSTALLED}/.venv/bin/python"):
        changed = changed.replace(program, sys.executable)
    copy = tmp_path / unit.name
    copy.write_text(changed.replace(INSTALLED, str(PROJECT_ROOT)))
    seen = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
    assert (seen.returncode, [line for line in seen.stderr.splitlines() if unit.name in line]) == (0, [])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_dies_is_started_again_for_ever(unit: Path) -> None:
    assert values(unit, "Restart") == ["always"]
    assert values(unit, "StartLimitIntervalSec") == ["0"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_caches_go_where_may_be_written(unit: Path) -> None:
    assert values(unit, "ProtectHome") == ["yes"]
    assert {f"HOME={HOME}/cache", f"XDG_CACHE_HOME={HOME}/cache"} <= set(values(unit, "Environment"))
    assert values(unit, "StateDirectory") == ["gpu-assets gpu-assets/cache"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_home_is_what_may_be_written_and_secrets_are_in_no_unit(unit: Path) -> None:
    assert values(unit, "ProtectSystem") == ["strict"]
    assert values(unit, "ReadWritePaths") == [HOME]
    assert f"GPU_ASSETS_HOME={HOME}" in values(unit, "Environment")
    assert values(unit, "EnvironmentFile") == ["-/etc/gpu-assets/env"]
    assert not [value for value in values(unit, "Environment") if "KEY" in value]
