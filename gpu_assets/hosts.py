"""The host registry, hosts.json version 3.0: which machine plays which role, and what runs where.

Addresses and ports come from here and from nowhere else. Common ground: imports nothing else of
the project but errors.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gpu_assets.errors import SettingsError

Role = Literal["trainer", "inference", "storage", "controller", "hybrid"]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Service(_Entry):
    """A process that a host offers. In hosts.json a bare integer is its port."""

    port: int | None = Field(None, ge=1, le=65535)
    health: str = "/health"
    type: Literal["http", "process"] = "http"
    name: str | None = None
    critical: bool = False
    pid_file: str | None = None
    path: str = ""
    protocol: Literal["http", "https"] = "http"
    auth_required: bool = False

    @model_validator(mode="before")
    @classmethod
    def _bare_port(cls, value: Any) -> Any:
        return {"port": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _reachable(self) -> "Service":
        if self.type == "http" and self.port is None:
            raise ValueError("a service of type http needs a port")
        return self


class Host(_Entry):
    """One machine; several may share an address."""

    name: str
    host: str = Field(description="Address or DNS name.")
    role: Role
    ssh_user: str | None = None
    base_dir: str | None = None
    models_dir: str | None = None
    checkpoints_dir: str | None = None
    capabilities: tuple[str, ...] = ()
    services: dict[str, Service] = {}

    def plays(self, role: Role) -> bool:
        return self.role == role or (self.role == "hybrid" and role in ("trainer", "inference"))


class HostRegistry(_Entry):
    """hosts.json."""

    version: Literal["3.0"]
    hosts: dict[str, Host]
    default_trainer: str = "4090"
    default_inference: str = "3090"
    local_host: str | None = None
    warden_port: int | None = Field(None, ge=1, le=65535)

    @field_validator("hosts")
    @classmethod
    def _not_empty(cls, hosts: dict[str, Host]) -> dict[str, Host]:
        if not hosts:
            raise ValueError("no host is listed; copy hosts.example.json and edit it")
        return hosts

    @model_validator(mode="after")
    def _defaults_exist(self) -> "HostRegistry":
        defaults: tuple[tuple[str, str, Role], ...] = (
            ("default_trainer", self.default_trainer, "trainer"),
            ("default_inference", self.default_inference, "inference"),
        )
        for field, host_id, role in defaults:
            if host_id not in self.hosts:
                raise ValueError(f"{field} is {host_id!r}, which is not in hosts: {sorted(self.hosts)}")
            if not self.hosts[host_id].plays(role):
                raise ValueError(f"{field} is {host_id!r}, whose role is {self.hosts[host_id].role!r}, not {role!r}")
        if self.local_host is not None and self.local_host not in self.hosts:
            raise ValueError(f"local_host is {self.local_host!r}, which is not in hosts: {sorted(self.hosts)}")
        return self

    def host_id(self, role: Literal["trainer", "inference"]) -> str:
        """The id of the default host of a role."""
        return self.default_trainer if role == "trainer" else self.default_inference

    def locate(self, service: str, host_id: str | None = None) -> tuple[str, Service]:
        """Host id and entry of a service: the given host's, else the first host's that offers it.

        The default trainer is asked first, then the default inference host, then the others.

        Raises:
            SettingsError: if the host is unknown, or nobody offers the service.
        """
        if host_id is not None and host_id not in self.hosts:
            raise SettingsError(f"host {host_id!r} is not in hosts.json; known hosts: {sorted(self.hosts)}")
        every = dict.fromkeys((self.default_trainer, self.default_inference, *self.hosts))
        order = [host_id] if host_id else list(every)
        for candidate in order:
            if service in self.hosts[candidate].services:
                return candidate, self.hosts[candidate].services[service]
        offered = sorted({name for host in self.hosts.values() for name in host.services})
        raise SettingsError(f"service {service!r} is offered by none of {order}; services in hosts.json: {offered}")

    def address(self, service: str, host_id: str | None = None) -> tuple[str, int]:
        """Address and port of a service."""
        found, entry = self.locate(service, host_id)
        if entry.port is None:
            raise SettingsError(f"service {service!r} of host {found!r} has no port: it is of type {entry.type!r}")
        return self.hosts[found].host, entry.port

    def url(self, service: str, host_id: str | None = None) -> str:
        """Base URL of a service, without a trailing slash."""
        _, entry = self.locate(service, host_id)
        host, port = self.address(service, host_id)
        return f"{entry.protocol}://{host}:{port}{entry.path}".rstrip("/")
