"""The host registry: roles, services, and clear refusals."""

import copy
import json
from typing import Any

import pytest
from pydantic import ValidationError

from gpu_assets.errors import SettingsError
from gpu_assets.hosts import HostRegistry
from gpu_assets.settings import PROJECT_ROOT

SHIPPED: dict[str, Any] = json.loads((PROJECT_ROOT / "hosts.json").read_text())


@pytest.fixture
def registry() -> HostRegistry:
    return HostRegistry.model_validate(SHIPPED)


@pytest.mark.parametrize("name", ["hosts.json", "hosts.example.json"])
def test_the_shipped_registries_are_valid(name: str) -> None:
    HostRegistry.model_validate(json.loads((PROJECT_ROOT / name).read_text()))


def test_the_shipped_registry_has_both_roles_on_loopback(registry: HostRegistry) -> None:
    assert registry.url("inference") == "http://127.0.0.1:8765"
    assert registry.url("dagster") == "http://127.0.0.1:3000"
    assert (registry.host_id("trainer"), registry.host_id("inference")) == ("4090", "3090")


def test_a_bare_number_is_a_port(registry: HostRegistry) -> None:
    values = copy.deepcopy(SHIPPED)
    values["hosts"]["3090"]["services"]["inference"] = 9000
    assert HostRegistry.model_validate(values).address("inference") == ("127.0.0.1", 9000)


def test_a_service_nobody_offers_is_refused_with_those_that_are(registry: HostRegistry) -> None:
    with pytest.raises(
        SettingsError, match=r"'vault' is offered by none of \['4090', '3090'\]; .*\['dagster', 'inference'\]"
    ):
        registry.url("vault")


def test_an_unknown_host_is_refused_with_the_known_ones(registry: HostRegistry) -> None:
    with pytest.raises(SettingsError, match=r"host '5090' is not in hosts.json; known hosts: \['3090', '4090'\]"):
        registry.url("inference", "5090")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hosts": {}}, "no host is listed"),
        ({"version": "2.0"}, "3.0"),
        ({"default_trainer": "x"}, "default_trainer is 'x', which is not in hosts"),
        ({"default_trainer": "3090"}, "whose role is 'inference', not 'trainer'"),
        ({"local_host": "x"}, "local_host is 'x', which is not in hosts"),
        ({"inference_hosts": {}}, "Extra inputs"),
    ],
)
def test_a_registry_that_contradicts_itself_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        HostRegistry.model_validate(SHIPPED | change)


def test_an_unknown_role_is_an_error_and_becomes_nothing_else() -> None:
    values = copy.deepcopy(SHIPPED)
    values["hosts"]["4090"]["role"] = "wizard"
    with pytest.raises(ValidationError, match="role"):
        HostRegistry.model_validate(values)
