"""Imports point one way, and definitions load without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_assets.settings import PROJECT_ROOT

PACKAGES = ("gpu_assets", "resources", "sensors", "validators", "serving")
COMMON = (
    "gpu_assets.errors",
    "gpu_assets.hosts",
    "gpu_assets.sections",
    "gpu_assets.service_variables",
    "gpu_assets.settings_errors",
    "gpu_assets.training_sections",
    "gpu_assets.settings",
    "gpu_assets.rendering",
)
STAGES = ("base_model", "datasets", "training", "evaluation", "ranking", "deployment", "lineage")
EVERYONE = ("gpu_assets.definitions", "gpu_assets.trainer", "gpu_assets.inference", "gpu_assets.cli")

ALLOWED: dict[str, tuple[str, ...]] = {
    **{module: COMMON for module in COMMON},
    "validators": ("validators", *COMMON),
    "serving": ("serving", "resources", *COMMON),
    "resources": ("resources", *COMMON),
    "sensors": ("sensors", "resources", "gpu_assets", *COMMON),
    **{
        f"gpu_assets.{stage}": (
            "resources",
            "validators",
            "serving.skills",
            *COMMON,
            *(f"gpu_assets.{before}" for before in STAGES[: place + 1]),
        )
        for place, stage in enumerate(STAGES)
    },
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((PROJECT_ROOT / package).rglob("*.py"))]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT_ROOT).with_suffix("").parts).removesuffix(".__init__")


def within(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def test_imports_inside_the_project_point_one_way() -> None:
    wrong = []
    for path in sources():
        module = module_of(path)
        rules = [allowed for name, allowed in ALLOWED.items() if within(module, (name,))]
        if within(module, EVERYONE) or module == "gpu_assets" or not rules:
            continue
        for line, name in imports(path):
            if within(name, PACKAGES) and not within(name, rules[0]):
                wrong.append(f"{path.relative_to(PROJECT_ROOT)}:{line} imports {name}")
    assert wrong == []


def test_every_source_is_under_a_rule_or_wires_everything() -> None:
    modules = [module_of(path) for path in sources()]
    assert [m for m in modules if m != "gpu_assets" and not within(m, (*ALLOWED, *EVERYONE))] == []


@pytest.mark.parametrize("package", ["validators", "serving"])
def test_validators_and_serving_know_nothing_of_dagster(package: str) -> None:
    found = [f"{path}:{line}" for path in sources() for line, name in imports(path)
             if within(module_of(path), (package,)) and within(name, ("dagster",))]  # fmt: skip
    assert found == []


def test_only_assets_config_and_events_of_a_stage_import_dagster() -> None:
    found = {
        str(path.relative_to(PROJECT_ROOT))
        for path in sources()
        for _, name in imports(path)
        if within(module_of(path), tuple(f"gpu_assets.{stage}" for stage in STAGES)) and within(name, ("dagster",))
    }
    assert {Path(name).name for name in found} <= {"assets.py", "config.py", "events.py"}


@pytest.mark.parametrize("module", ["gpu_assets.definitions", "gpu_assets.trainer", "gpu_assets.inference"])
def test_definitions_load_without_torch_or_transformers(module: str) -> None:
    code = f"import sys, {module}; {module}.defs(); print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, cwd=PROJECT_ROOT
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == "[]"
