"""Whether the platform's services answer, and what is still missing.

Each function looks once and returns what it waits for, or None when all is well.
"""

from typing import Any

import httpx

from gpu_assets.errors import ServiceUnavailable
from gpu_assets.hosts import HostRegistry

TIMEOUT_S = 5.0
READY_TIMEOUT_S = 1.0
ENGINE_STOPPED = "engine_stopped"
LOCATIONS = """
{
  workspaceOrError {
    __typename
    ... on PythonError { message }
    ... on Workspace {
      locationEntries {
        name
        loadStatus
        locationOrLoadError { __typename ... on PythonError { message } }
      }
    }
  }
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } }
}
"""


def inference_waits_for(registry: HostRegistry) -> str | None:
    """Look at the inference server's health endpoint."""
    return _answer(registry, "inference")


def inference_is_dead(registry: HostRegistry) -> str | None:
    """Why the inference server answers and serves nothing until it is started again, or None.

    A server without a model, one that is loading a model, and one that is too busy to answer are not dead.
    """
    try:
        answer = httpx.get(f"{registry.url('inference')}/ready", timeout=READY_TIMEOUT_S, trust_env=False)
        error = answer.json()["error"] if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else {}
        return str(error["message"]).split(";")[0] if error.get("code") == ENGINE_STOPPED else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def dagster_waits_for(registry: HostRegistry) -> str | None:
    """Look at the webserver, then at the daemons and the code locations.

    Raises:
        ServiceUnavailable: if a code location did not load; waiting would not help.
    """
    waits_for = _answer(registry, "dagster")
    if waits_for is not None:
        return waits_for
    try:
        response = httpx.post(
            f"{registry.url('dagster')}/graphql", json={"query": LOCATIONS}, timeout=TIMEOUT_S, trust_env=False
        )
        data = response.raise_for_status().json()["data"]
    except httpx.HTTPError as error:
        return f"GraphQL ({type(error).__name__})"
    return _locations(data["workspaceOrError"]) or _daemons(data["instance"])


def _answer(registry: HostRegistry, service: str) -> str | None:
    _, entry = registry.locate(service)
    url = f"{registry.url(service)}{entry.health}"
    try:
        status = httpx.get(url, timeout=TIMEOUT_S, trust_env=False).status_code
    except httpx.HTTPError as error:
        return f"{url} ({type(error).__name__})"
    return None if status == httpx.codes.OK else f"{url} (status {status})"


def _locations(workspace: dict[str, Any]) -> str | None:
    if workspace["__typename"] != "Workspace":
        raise ServiceUnavailable(f"workspace.yaml could not be loaded: {workspace['message']}")
    entries = workspace["locationEntries"]
    for entry in entries:
        loaded = entry["locationOrLoadError"]
        if loaded is not None and loaded["__typename"] == "PythonError":
            raise ServiceUnavailable(f"code location {entry['name']!r} did not load: {loaded['message'].strip()}")
    loading = [entry["name"] for entry in entries if entry["loadStatus"] != "LOADED"]
    if loading or not entries:
        return f"code locations {', '.join(loading)}"
    return None


def _daemons(instance: dict[str, Any]) -> str | None:
    statuses = instance["daemonHealth"]["allDaemonStatuses"]
    missing = [status["daemonType"] for status in statuses if status["required"] and not status["healthy"]]
    return f"daemons {', '.join(sorted(missing))}" if missing else None
