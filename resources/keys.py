"""The inference server's keys: from the environment, else made once and kept in a file of mode 600."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from gpu_assets.errors import SettingsError
from gpu_assets.settings import Settings

KEY_FILE = "inference-keys.json"


@dataclass(frozen=True)
class InferenceKeys:
    """`read` may ask; `admin` may also change what is served."""

    read: str
    admin: str

    def __repr__(self) -> str:
        return "InferenceKeys(read=***, admin=***)"


def inference_keys(settings: Settings) -> InferenceKeys:
    """The keys of INFERENCE_READ_KEY and INFERENCE_ADMIN_KEY, each generated where it is unset.

    Side effect: writes `<home>/serving/inference-keys.json`, mode 600, when a key is generated.

    Raises:
        SettingsError: if the key file is readable by others or is not what this function wrote, or if both keys are
            one.
    """
    read, admin = settings.inference_read_key, settings.inference_admin_key
    if read is not None and admin is not None:
        return InferenceKeys(read.get_secret_value(), admin.get_secret_value())
    generated = _kept_keys(key_file(settings))
    keys = InferenceKeys(
        read.get_secret_value() if read is not None else generated.read,
        admin.get_secret_value() if admin is not None else generated.admin,
    )
    if keys.read == keys.admin:
        given, other = ("INFERENCE_READ_KEY", "admin") if read is not None else ("INFERENCE_ADMIN_KEY", "read")
        raise SettingsError(f"{given} is the {other} key of {key_file(settings)}: set another one")
    return keys


def key_file(settings: Settings) -> Path:
    """Where generated keys are kept."""
    return settings.home / "serving" / KEY_FILE


def _kept_keys(path: Path) -> InferenceKeys:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = {"read": secrets.token_urlsafe(32), "admin": secrets.token_urlsafe(32)}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(new, file)
    try:
        os.link(temporary, path)  # exactly one of several first starters wins
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    if path.stat().st_mode & 0o077:
        raise SettingsError(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        read, admin = kept["read"], kept["admin"]
    except (ValueError, KeyError, TypeError):
        read = admin = None
    if not _is_key(read) or not _is_key(admin) or read == admin:
        raise SettingsError(f"{path} is not a key file; delete it and new keys are made")
    return InferenceKeys(read=str(read), admin=str(admin))


def _is_key(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
