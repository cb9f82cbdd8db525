"""The inference server's keys: from the environment, else from a file of mode 600, which is made where there is none.

The file holds `{"read": ..., "admin": ...}`: each one key, or a list of keys, a key being a text or
`{"name": ..., "key": ...}`. Names are for limits and figures; a key without one is `read-1`, `admin-2` and so on by its
place.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from gpu_assets.errors import SettingsError
from gpu_assets.settings import Settings, split_keys

KEY_FILE = "inference-keys.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Access = Literal["read", "admin"]
ACCESSES: tuple[Access, ...] = ("read", "admin")


@dataclass(frozen=True)
class Key:
    """A key; its value is in no text that is made of it."""

    name: str
    access: Access
    value: str = field(repr=False)

    @cached_property
    def digest(self) -> bytes:
        return _digest(self.value.encode())


@dataclass(frozen=True)
class InferenceKeys:
    """All keys: those of `read` may ask, those of `admin` may also change what is served."""

    keys: tuple[Key, ...]

    @classmethod
    def of(cls, read: str | Sequence[str], admin: str | Sequence[str]) -> "InferenceKeys":
        """Keys without names."""
        given: dict[Access, str | Sequence[str]] = {"read": read, "admin": admin}
        return cls(
            tuple(
                Key(f"{access}-{place}", access, value)
                for access, values in given.items()
                for place, value in enumerate([values] if isinstance(values, str) else values, 1)
            )
        )

    @property
    def read(self) -> str:
        """The first key that may ask."""
        return self.of_access("read")[0].value

    @property
    def admin(self) -> str:
        """The first key that may also change what is served: the platform's own."""
        return self.of_access("admin")[0].value

    def of_access(self, access: Access) -> tuple[Key, ...]:
        return tuple(key for key in self.keys if key.access == access)

    def find(self, presented: bytes) -> Key | None:
        """The key that a client presents. Every key is compared, in a time that tells nothing of any."""
        digest = _digest(presented)
        matches = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        return matches[0] if matches else None


def inference_keys(settings: Settings) -> InferenceKeys:
    """The keys of INFERENCE_READ_KEY and INFERENCE_ADMIN_KEY, and of the key file for what is unset.

    Side effect: writes `<home>/serving/inference-keys.json`, mode 600, with a key of each kind, where it is needed and
    is not there.

    Raises:
        SettingsError: if the key file is readable by others or is not one, or if a key or a name is there twice.
    """
    read, admin = split_keys(settings.inference_read_key), split_keys(settings.inference_admin_key)
    given = InferenceKeys.of(read, admin)
    if read and admin:
        return given
    path = key_file(settings)
    kept = _kept_keys(path).of_access("admin" if read else "read") if read or admin else _kept_keys(path).keys
    if {key.value for key in given.keys} & {key.value for key in kept}:
        variable, other = ("INFERENCE_READ_KEY", "admin") if read else ("INFERENCE_ADMIN_KEY", "read")
        raise SettingsError(f"{variable} is the {other} key of {path}: set another one")
    _check_names(given.keys + kept, path)
    return InferenceKeys(given.keys + kept)


def key_file(settings: Settings) -> Path:
    """Where generated keys are kept."""
    return settings.home / "serving" / KEY_FILE


def _kept_keys(path: Path) -> InferenceKeys:
    _make(path)
    if path.stat().st_mode & 0o077:
        raise SettingsError(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        kept = None
    if not isinstance(kept, dict) or set(kept) != set(ACCESSES):
        raise SettingsError(f"{path} is not a key file; delete it and new keys are made")
    keys = tuple(key for access in ACCESSES for key in _read_keys(path, access, kept[access]))
    _check_names(keys, path)
    if len({key.value for key in keys}) < len(keys):
        raise SettingsError(f"{path} is not a key file; delete it and new keys are made: one key is there twice")
    return InferenceKeys(keys)


def _make(path: Path) -> None:
    """Write a key of each kind, unless the file is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = {access: secrets.token_urlsafe(32) for access in ACCESSES}
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


def _read_keys(path: Path, access: Access, kept: object) -> list[Key]:
    """The keys of one kind; what is wrong is told by its place, never by its value."""
    entries = kept if isinstance(kept, list) else [kept]
    keys = []
    for place, entry in enumerate(entries, 1):
        named = entry if isinstance(entry, dict) else {"key": entry}
        name, value = named.get("name", f"{access}-{place}"), named.get("key")
        is_named = set(named) <= {"name", "key"} and isinstance(name, str) and NAME.fullmatch(name)
        if not is_named or not isinstance(value, str) or not _can_be_sent(value):
            raise SettingsError(
                f"{path} is not a key file; delete it and new keys are made, or mend {access}[{place - 1}]: wanted is "
                'a key or {"name": "laptop", "key": ...}, a name being up to 64 of A-Z, a-z, 0-9, ., _ and -, a key '
                "printable and without a space at its ends"
            )
        keys.append(Key(name, access, value))
    if not keys:
        raise SettingsError(f"{path} is not a key file; delete it and new keys are made: {access} holds no key")
    return keys


def _check_names(keys: Sequence[Key], path: Path) -> None:
    names = [key.name for key in keys]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingsError(f"{path} names two keys {twice!r}, a name that keys without one have, too: change one")


def _can_be_sent(value: str) -> bool:
    """Whether a header can carry a key as it is."""
    return bool(value) and value.isprintable() and value == value.strip()


def _digest(value: bytes) -> bytes:
    """Of one length, so that comparing tells nothing of a key's length."""
    return hashlib.sha256(value).digest()
