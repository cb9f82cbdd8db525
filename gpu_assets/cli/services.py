"""What the platform consists of on this machine: the inference server, then Dagster.

Dagster is started after the inference server and stopped before it, so that a run that is judging is
canceled and does not fail for want of the server.
"""

import sys

from gpu_assets.cli import health
from gpu_assets.cli.children import ChildSpec
from gpu_assets.settings import ENV_PREFIX, PROJECT_ROOT, Settings, environment_for
from resources.workspace import Workspace


def platform_children(settings: Settings, overrides: dict[str, str]) -> list[ChildSpec]:
    """The children in the order of their start."""
    environment = [f"{name}={value}" for name, value in child_environment(settings, overrides).items()]
    return [_inference(settings, environment), _dagster(settings, environment)]


def child_environment(settings: Settings, overrides: dict[str, str]) -> dict[str, str]:
    """Variables that children get besides the inherited ones; paths are absolute, since their folder is another."""
    return {
        **environment_for(overrides),
        f"{ENV_PREFIX}HOME": str(settings.home),
        f"{ENV_PREFIX}CONFIG_FILE": str(settings.config_file.absolute()),
        f"{ENV_PREFIX}HOSTS_FILE": str(settings.hosts_file.absolute()),
        "DAGSTER_HOME": str(Workspace(settings.home).dagster),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _inference(settings: Settings, environment: list[str]) -> ChildSpec:
    return ChildSpec(
        name="inference",
        command=lambda: ["env", *environment, sys.executable, "-m", "serving.inference"],
        log_file=Workspace(settings.home).logs / "inference.log",
        waits_for=lambda: health.inference_waits_for(settings.hosts),
        is_dead=lambda: health.inference_is_dead(settings.hosts),
    )


def _dagster(settings: Settings, environment: list[str]) -> ChildSpec:
    workspace = Workspace(settings.home)
    host, port = settings.hosts.address("dagster")
    address = ["-h", host, "-p", str(port)]
    dev = [sys.executable, "-m", "dagster", "dev", "-w", str(PROJECT_ROOT / "workspace.yaml"), *address]

    canceled: list[str] = []

    def close_left_runs() -> None:
        from gpu_assets.cli import runs

        runs.close_left_runs(workspace, canceled)

    def cancel_open_runs() -> None:
        from gpu_assets.cli import runs

        canceled.extend(runs.cancel_open_runs(workspace))

    return ChildSpec(
        name="dagster",
        command=lambda: ["env", *environment, *dev],
        log_file=workspace.logs / "dagster.log",
        waits_for=lambda: health.dagster_waits_for(settings.hosts),
        before_start=close_left_runs,
        before_stop=cancel_open_runs,
        after_stop=close_left_runs,  # What started meanwhile.
    )
