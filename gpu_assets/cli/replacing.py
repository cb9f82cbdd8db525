"""Files that are written under temporary names and take their place when all is well, or never."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gpu_assets.errors import SettingsError


@dataclass(frozen=True)
class Replacement:
    """Open files, and where each goes when `publish` is called; without that they are removed."""

    files: Sequence[BinaryIO]
    temporaries: Sequence[Path]
    finals: Sequence[Path]

    def publish(self) -> None:
        """Put the files in their places, the first one first."""
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())
        for temporary, final in zip(self.temporaries, self.finals, strict=True):
            temporary.replace(final)


@contextmanager
def replacing(*finals: Path) -> Iterator[Replacement]:
    """New files beside these paths, whose folders are made.

    Raises:
        SettingsError: if they cannot be written, in the block too.
    """
    temporaries = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in finals]
    try:
        with ExitStack() as stack:
            for final in finals:
                final.parent.mkdir(parents=True, exist_ok=True)
            for temporary in temporaries:
                stack.callback(temporary.unlink, missing_ok=True)
            yield Replacement([stack.enter_context(path.open("wb")) for path in temporaries], temporaries, finals)
    except OSError as error:
        raise SettingsError(f"{finals[0]} cannot be written: {error.strerror or error}") from None


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both are there and are one file, by whatever names."""
    try:
        return one.samefile(other)
    except OSError:
        return False
