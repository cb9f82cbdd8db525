"""Names from outside made safe: partition keys, text for people, paths that JSON can hold.

A file name is bytes; Python hands those that are not UTF-8 around as lone surrogates, which no
JSON file, terminal or partition key can hold.
"""

import os
import re
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

DATA_SUFFIX = ".jsonl"
SIDECAR_SUFFIX = ".meta.json"
MAX_NAME_BYTES = 255
SLUG_LENGTH = 64


def slug(text: str) -> str:
    """`text` with all but [A-Za-z0-9._-] as `_`: 1 to 64 characters, beginning with neither dot nor hyphen.

    Two dots in a row become `__`: Dagster reads three as a range of partitions.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", text).replace("..", "__")[:SLUG_LENGTH]
    return re.sub(r"^[.-]", "_", safe) or "_"


def stem_of(name: str) -> str:
    """The name without `.jsonl`; other suffixes belong to it."""
    return name.removesuffix(DATA_SUFFIX)


def dataset_key(name: str, sha256: str, digits: int = 8) -> str:
    """`<slug of the stem>-<first hex digits of the content's sha256>`."""
    return f"{slug(stem_of(name))}-{sha256[:digits]}"


def display(name: str) -> str:
    """The name as people can read it and JSON can hold it: bytes that are not UTF-8 and controls escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def encode_path(path: Path) -> str:
    """A path as ASCII; `decode_path` gives back the same bytes."""
    return quote_from_bytes(os.fsencode(path), safe="/")


def decode_path(text: str) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(text)))


def shorten(name: str, suffix: str, max_bytes: int) -> str:
    """`name + suffix` in at most `max_bytes` bytes; what is cut is the end of `name`, at a character."""
    room = max_bytes - len(os.fsencode(suffix))
    while len(os.fsencode(name)) > room:
        name = name[:-1]
    return name + suffix


def free_name(folder: Path, name: str, taken: frozenset[str] = frozenset(), max_bytes: int = MAX_NAME_BYTES) -> str:
    """`name`, numbered before its suffix where the folder already has it: `a.jsonl`, `a.2.jsonl`, ..."""
    suffix = Path(name).suffix if len(os.fsencode(Path(name).suffix)) <= 16 else ""
    stem = name.removesuffix(suffix)
    candidate, number = shorten(stem, suffix, max_bytes), 1
    while candidate in taken or os.path.lexists(folder / candidate):
        number += 1
        candidate = shorten(stem, f".{number}{suffix}", max_bytes)
    return candidate
