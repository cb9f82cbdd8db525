"""What a client is before it sends anything: a service, its address and its limits. Opens no connection."""

from typing import Any, Self

from gpu_assets.settings import Settings, load_settings, service_variables
from resources.keys import inference_keys
from resources.services.exchange import Call, IdempotencyKey, Method, idempotency

TIMEOUTS_S = {"inference": 120.0, "scheduler": 30.0, "vault": 30.0, "tavern": 10.0}
"""By service, where `<SERVICE>_TIMEOUT_S` is not set: a long answer takes the inference server minutes."""
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_MAX_RETRIES = 5


class BaseClient:
    """One service at one address.

    Args:
        service: as it is called in messages.
        timeout_s: how long the service may be silent within one answer.
        max_retries: attempts after the first.
        health_path: answers with success while the service lives.
    """

    def __init__(
        self,
        service: str,
        base_url: str,
        key: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        health_path: str = "/health",
    ) -> None:
        self.service = service
        self.base_url = base_url
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self._health_path = health_path

    @classmethod
    def of_service(cls, service: str, settings: Settings | None = None, *, max_retries: int | None = None) -> Self:
        """The client of a service of hosts.json, with the limits and the key of the environment.

        The inference server's key is INFERENCE_API_KEY, else the admin key that `resources.keys` gives.

        Args:
            settings: read anew without.
            max_retries: wins over `<SERVICE>_MAX_RETRIES`.

        Raises:
            SettingsError: if hosts.json has no such service, or a variable is out of bounds.
        """
        found = settings or load_settings()
        host_id = found.hosts.host_id("inference") if service == "inference" else None
        _, entry = found.hosts.locate(service, host_id)
        variables = service_variables(service)
        retries = variables.max_retries if max_retries is None else max_retries
        return cls(
            f"{service} server",
            found.hosts.url(service, host_id),
            variables.key or (inference_keys(found).admin if service == "inference" else None),
            timeout_s=variables.timeout_s or TIMEOUTS_S.get(service, DEFAULT_TIMEOUT_S),
            max_retries=DEFAULT_MAX_RETRIES if retries is None else retries,
            health_path=entry.health,
        )

    def _call(
        self,
        method: Method,
        path: str,
        json: Any = None,
        *,
        idempotent: bool = True,
        idempotency_key: IdempotencyKey = None,
    ) -> Call:
        headers = idempotency(idempotency_key)
        where = f"{self.service} at {self.base_url}{path}"
        return Call(where, method, path, json, headers, idempotent or bool(headers))
