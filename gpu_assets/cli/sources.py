"""The files that a command line names: paths, globs and standard input."""

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpu_assets.datasets.names import SIDECAR_SUFFIX, display
from gpu_assets.errors import SettingsError
from validators.lines import COMPRESSED_FORMATS, HEAD_BYTES, foreign_format

STDIN = "-"
_GLOB_CHARACTERS = frozenset("*?[")
_COPY_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """One file to look at; `name` is what people know it by. `error` says why there is nothing to look at."""

    name: str
    path: Path
    error: str | None = None

    @property
    def is_stdin(self) -> bool:
        return self.name == STDIN

    def explain(self, error: Exception) -> str:
        """The sentence with the name that was given instead of a temporary file's."""
        return display(str(error).replace(str(self.path), "standard input")) if self.is_stdin else display(str(error))


def find_sources(arguments: Iterable[str], stack: ExitStack) -> list[Source]:
    """Every file once, in the order named. Standard input is copied to a temporary file, removed with `stack`.

    Raises:
        SettingsError: if standard input cannot be copied.
    """
    sources: dict[Path | str, Source] = {}
    for argument in dict.fromkeys(arguments):
        found = [Source(STDIN, stack.enter_context(_spooled()))] if argument == STDIN else _named(argument)
        for source in found:
            sources.setdefault(source.name if source.error else source.path.absolute(), source)
    return list(sources.values())


def _named(argument: str) -> Iterator[Source]:
    path = Path(argument)
    if _is_folder(path):
        yield Source(argument, path, f"{argument} is a folder; name its files, as in '{argument.rstrip('/')}/*.jsonl'")
    elif _GLOB_CHARACTERS.isdisjoint(argument) or os.path.lexists(path):
        yield Source(argument, path)
    else:
        yield from _matching(argument)


def _matching(pattern: str) -> Iterator[Source]:
    """The files that match, sidecars left out."""
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207, hidden files do not match, as in a shell
    files = [match for match in matches if not match.endswith(SIDECAR_SUFFIX) and not _is_folder(Path(match))]
    if not files:
        yield Source(pattern, Path(pattern), f"no file matches {pattern}")
    for name in files:
        yield Source(name, Path(name))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


@contextmanager
def _spooled() -> Iterator[Path]:
    """A copy; what begins like a compressed file is named like one."""
    head = sys.stdin.buffer.read(HEAD_BYTES)
    suffix = COMPRESSED_FORMATS.get(foreign_format(head) or "", "")
    with tempfile.NamedTemporaryFile(prefix="gpu-assets-", suffix=f".jsonl{suffix}") as file:
        try:
            file.write(head)
            shutil.copyfileobj(sys.stdin.buffer, file, _COPY_BYTES)
            file.flush()
        except OSError as error:
            raise SettingsError(
                f"standard input cannot be copied to {tempfile.gettempdir()}: {error.strerror or error}"
            ) from None
        yield Path(file.name)
