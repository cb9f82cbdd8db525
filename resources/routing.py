"""Where an asset's work is at home: the one place that turns a role into tags and pools."""

from dataclasses import dataclass
from typing import Literal

from gpu_assets.hosts import HostRegistry

HOST_TAG = "gpu/host"
Role = Literal["trainer", "inference"]


@dataclass(frozen=True)
class Routing:
    """Roles to hosts, as hosts.json says."""

    registry: HostRegistry

    def tags(self, role: Role) -> dict[str, str]:
        """The tag that says at which host an asset is at home."""
        return {HOST_TAG: self.registry.host_id(role)}

    def gpu_pool(self, role: Role) -> str:
        """The pool that lets a GPU hold one run; for work that uses the GPU, and for no other."""
        return f"gpu-{self.registry.host_id(role)}"
