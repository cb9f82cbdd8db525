"""The platform as Dagster's assets and sensors see it: settings and folders in one value."""

from dataclasses import dataclass

from gpu_assets.settings import Settings
from resources.workspace import Workspace


@dataclass(frozen=True)
class Platform:
    """Given to every asset as the resource `platform`."""

    settings: Settings

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.settings.home)
