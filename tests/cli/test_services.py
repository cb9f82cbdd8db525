"""What the platform's children are started with."""

from gpu_assets.cli.services import platform_children
from gpu_assets.settings import Settings
from resources.workspace import Workspace


def test_the_server_finds_what_is_deployed_by_itself(settings: Settings) -> None:
    inference, _ = platform_children(settings, {})
    assert inference.command()[-2:] == ["-m", "serving.inference"]
    assert f"GPU_ASSETS_HOME={settings.home}" in inference.command()
    assert inference.log_file == Workspace(settings.home).logs / "inference.log"
