"""What no source may hold: addresses, ports, and the environment outside settings."""

import re
import tokenize
from pathlib import Path

import pytest

from gpu_assets.settings import PROJECT_ROOT
from tests.architecture.test_imports import sources

ADDRESS = re.compile(r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b|\blocalhost\b")
PORTS = {"3000", "8080", "8081", "8090", "8760", "8765", "8766", "8767", "8768", "8888"}
"""Of the registry; any other number may be one by chance."""


def tokens(path: Path) -> list[tokenize.TokenInfo]:
    with path.open("rb") as file:
        return list(tokenize.tokenize(file.readline))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_addresses_and_ports_come_from_the_registry_alone(path: Path) -> None:
    assert ADDRESS.findall(path.read_text()) == []
    numbers = {token.string.replace("_", "") for token in tokens(path) if token.type == tokenize.NUMBER}
    assert not numbers & PORTS


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_only_settings_read_the_environment(path: Path) -> None:
    if path == PROJECT_ROOT / "gpu_assets" / "settings.py":
        return
    code = [token.string for token in tokens(path) if token.type == tokenize.NAME]
    assert not {"environ", "getenv"} & set(code)
