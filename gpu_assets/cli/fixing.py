"""`--fix-out`: the good lines of a file in one file, the others with their reason in another."""

import codecs
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gpu_assets.cli.replacing import is_same_file, replacing
from gpu_assets.cli.sources import Source
from gpu_assets.errors import SettingsError
from validators.lines import COMPRESSED_SUFFIXES, Chunk
from validators.report import RejectedRow

REJECTED_SUFFIX = ".rejected.jsonl"
STDIN_NAME = "stdin.jsonl"


class FixedLines:
    """A line sink: accepted lines go to one file byte for byte, their ends included, rejected ones to the other.

    A byte order mark and blank lines are left out.
    """

    def __init__(self, accepted: BinaryIO, rejected: BinaryIO) -> None:
        self._accepted = accepted
        self._rejected = rejected

    def take(self, chunk: Chunk, left_out: Collection[int], rejected: Sequence[RejectedRow]) -> None:
        lines = chunk.without(left_out)
        self._accepted.write(lines.removeprefix(codecs.BOM_UTF8) if chunk.first_number == 1 else lines)
        for row in rejected:
            self._rejected.write(json.dumps(row.to_row(), ensure_ascii=False).encode() + b"\n")


def plan_outputs(folder: Path, sources: Iterable[Source]) -> dict[Source, Path]:
    """Where the good lines of each source go.

    Raises:
        SettingsError: if two sources would go to one file, or one to a file that is a source.
    """
    sources = list(sources)
    taken: dict[Path, Source] = {}
    outputs = {}
    for source in sources:
        outputs[source] = folder / _output_name(source)
        for path in (outputs[source], rejected_path(outputs[source])):
            if (other := taken.setdefault(path, source)) is not source:
                raise SettingsError(f"{other.name} and {source.name} would both go to {path}; fix them one by one")
            if written := next((one for one in sources if is_same_file(path, one.path)), None):
                raise SettingsError(
                    f"--fix-out {folder} would overwrite {written.name}, which is to be validated; name another folder"
                )
    return outputs


def rejected_path(accepted: Path) -> Path:
    return accepted.with_name(accepted.name + REJECTED_SUFFIX)


@contextmanager
def fixing(accepted: Path) -> Iterator[FixedLines]:
    """Both files, which take their places if the block ends well.

    Raises:
        SettingsError: if they cannot be written.
    """
    with replacing(rejected_path(accepted), accepted) as replacement:
        rejected_file, accepted_file = replacement.files
        yield FixedLines(accepted_file, rejected_file)
        replacement.publish()


def _output_name(source: Source) -> str:
    if source.is_stdin:
        return STDIN_NAME
    return source.path.stem if source.path.suffix in COMPRESSED_SUFFIXES else source.path.name
