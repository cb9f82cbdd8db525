"""Ports that must be free before a child is started on them.

gRPC and HTTP servers can share a port by accident (SO_REUSEPORT) and then answer in turns, so this is
checked first and said by name.
"""

import errno
import socket

from gpu_assets.errors import InUse, SettingsError
from gpu_assets.hosts import HostRegistry


def require_free_port(registry: HostRegistry, service: str) -> None:
    """Raises:
    InUse: if somebody listens on the service's port.
    SettingsError: if the service's address is not one of this machine.
    """
    host, port = registry.address(service)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise SettingsError(f"hosts.json: the address of {service!r}, {host!r}, is unknown: {error.strerror}") from None
    except PermissionError:
        raise SettingsError(
            f"hosts.json: port {port} of {service!r} needs more rights than this user has; choose one above 1023"
        ) from None
    except OSError as error:
        raise _explain(error, service, host, port) from None


def _explain(error: OSError, service: str, host: str, port: int) -> InUse | SettingsError:
    if error.errno == errno.EADDRINUSE:
        return InUse(
            f"port {port} on {host}, which hosts.json gives to {service!r}, is in use; "
            "end the process that listens there, or change the port in hosts.json"
        )
    return SettingsError(
        f"hosts.json: {service!r} is at {host}, which is no address of this machine ({error.strerror}); "
        "start it on its own host"
    )
