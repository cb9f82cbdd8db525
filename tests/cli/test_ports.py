"""A port that is not ours to take is said by name, before anything is started."""

import json
import socket
from pathlib import Path

import pytest

from gpu_assets.cli.ports import require_free_port
from gpu_assets.errors import InUse, SettingsError
from gpu_assets.settings import load_settings


def test_a_free_port_passes_also_while_old_connections_linger(hosts_file: Path) -> None:
    registry = load_settings().hosts
    address = registry.address("dagster")
    with socket.create_server(address) as server, socket.create_connection(address):
        server.accept()[0].close()

    require_free_port(registry, "dagster")


def test_a_port_in_use_is_named_with_its_service(hosts_file: Path) -> None:
    registry = load_settings().hosts
    host, port = registry.address("inference")

    with (
        socket.create_server((host, port)),
        pytest.raises(InUse, match=f"port {port} on {host}.*'inference', is in use"),
    ):
        require_free_port(registry, "inference")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [("192.0.2.1", "no address of this machine"), ("no-such-host.invalid", "'no-such-host.invalid', is unknown")],
)
def test_an_address_of_another_machine_is_refused(hosts_file: Path, address: str, sentence: str) -> None:
    hosts = json.loads(hosts_file.read_text())
    hosts["hosts"]["3090"]["host"] = address
    hosts_file.write_text(json.dumps(hosts))

    with pytest.raises(SettingsError, match=sentence):
        require_free_port(load_settings().hosts, "inference")
