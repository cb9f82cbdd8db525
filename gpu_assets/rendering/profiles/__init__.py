"""Data profiles: how a conversation is shaped before the template renders it.

A profile is added by one module with one object and one line in `PROFILES`
(docs/adding-a-profile.md).
"""

from gpu_assets.errors import RenderingError
from gpu_assets.rendering.profiles.base import DataProfile
from gpu_assets.rendering.profiles.emoji_think import EmojiThinkProfile
from gpu_assets.rendering.profiles.plain import PlainProfile
from gpu_assets.rendering.profiles.regime3 import Regime3Profile

_REGISTERED: tuple[DataProfile, ...] = (PlainProfile(), EmojiThinkProfile(), Regime3Profile())
PROFILES: dict[str, DataProfile] = {profile.name: profile for profile in _REGISTERED}


def get_profile(name: str) -> DataProfile:
    """The registered profile of that name.

    Raises:
        RenderingError: if no such profile is registered; nothing is assumed in its place.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise RenderingError(
            f"profile {name!r} is not registered; known profiles: {sorted(PROFILES)}. Set profile.name in config.json."
        ) from None


__all__ = ["PROFILES", "DataProfile", "get_profile"]
