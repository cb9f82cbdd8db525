"""Artifacts: folders that are complete exactly when their manifest exists.

A folder is written under a temporary name, every file is fsynced, the manifest is written last,
and the folder is renamed. A reader asks for the manifest first and refuses a folder without it,
so nothing half-written is ever trained on, ranked or served.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu_assets.errors import ArtifactInvalid

MANIFEST_FILE = "manifest.json"
WEIGHTS_SUFFIX = ".safetensors"


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """sha256 of a value's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def weights_sha256(folder: Path) -> str:
    """Identity of a model: its safetensors files by name and content.

    Raises:
        ArtifactInvalid: if the folder holds no safetensors file.
    """
    shards = sorted(path for path in folder.glob(f"*{WEIGHTS_SUFFIX}") if path.is_file())
    if not shards:
        raise ArtifactInvalid(f"{folder} holds no {WEIGHTS_SUFFIX} file; only safetensors weights are loaded")
    if len(shards) == 1:
        return sha256_file(shards[0])
    return sha256_json({shard.name: sha256_file(shard) for shard in shards})


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a complete artifact.

    Raises:
        ArtifactInvalid: if there is none, it does not parse, or it is of another kind.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactInvalid(f"{folder} has no {MANIFEST_FILE}: it is incomplete or not ours") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactInvalid(f"{path} is not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        seen = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtifactInvalid(f"{path} is of kind {seen!r}, wanted {kind!r}")
    return manifest


def file_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a folder, by its name, for the manifest that comes last."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def require_as_written(folder: Path, files: Mapping[str, str]) -> None:
    """Compare a folder's files with the hashes that its manifest has of them.

    Raises:
        ArtifactInvalid: naming the first file that is missing or differs.
    """
    for name, sha256 in files.items():
        if not (folder / name).is_file():
            raise ArtifactInvalid(f"{folder / name} is missing")
        if sha256_file(folder / name) != sha256:
            raise ArtifactInvalid(f"{folder / name} is not what was written")


def is_complete(folder: Path) -> bool:
    """Whether the folder has a manifest."""
    return (folder / MANIFEST_FILE).is_file()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON so that a reader sees the old content or the new, and never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _fsync_folder(path.parent)


@contextmanager
def publishing(final: Path) -> Iterator[Path]:
    """A temporary folder beside `final`; it is renamed to it if the block ends well.

    The block writes the manifest last, with `write_json`. On an error the folder is removed. A
    complete artifact that is already there is replaced by rename, so it is never seen in part.
    """
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if not is_complete(temporary):
            raise ArtifactInvalid(f"{final} was about to be published without its {MANIFEST_FILE}")
        _fsync_tree(temporary)
        replaced = final.with_name(f".{final.name}.{os.getpid()}.old")
        if final.exists():
            final.rename(replaced)
        temporary.rename(final)
        _fsync_folder(final.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fsync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _fsync_folder(folder)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
