"""Whether somebody still writes to a file of the inbox.

Three signs, each alone too weak: a process holds the file open for writing, it was changed a
moment ago, its last line has no end.
"""

import errno
import fcntl
import os
import signal
from pathlib import Path
from typing import BinaryIO

from gpu_assets.datasets.scan import Look

CLOCK_TOLERANCE_S = 0.01
"""By how much the clock of file times may be ahead of the one that is asked."""


def is_open_for_writing(descriptor: int) -> bool:
    """Whether any process holds the file of a read-only descriptor open for writing.

    Asks for a read lease and gives it back at once. A writer that comes in between sends SIGURG,
    which is ignored, in place of SIGIO.

    Raises:
        OSError: if it cannot be told: not on Linux, a file system without leases, a file of another user.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        raise OSError(errno.ENOTSUP, "this operating system has no leases")
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    return False


def seconds_until_settled(path: Path, look: Look, now: float, settle_s: float) -> float:
    """How long the file must still lie unchanged to count as whole; 0 if it does.

    Writing sets both times of a file to the same moment. Where they differ, something was done to
    the file as a whole after its last byte was written: it was renamed, or its time was set, as
    `mv`, `cp -p` and `rsync` do. Such a file is whole at once; so is one of a time to come.

    Args:
        now: seconds since the epoch, as file times are.
        settle_s: since its last change, for a file that was written where it lies.
    """
    remaining = settle_s - (now - look.mtime_ns / 1e9)
    if not 0 < remaining <= settle_s + CLOCK_TOLERANCE_S:
        return 0.0
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0.0
    return min(remaining, settle_s) if status.st_mtime_ns == status.st_ctime_ns else 0.0


def has_cut_line(file: BinaryIO) -> bool:
    """Whether the file's last line has no end; leaves the file at its beginning."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    last = file.read(1)
    file.seek(0)
    return last not in (b"\n", b"\r")
