"""A home made ready for the platform: its folders, its lock, and the Dagster instance's configuration."""

import fcntl
import os
from pathlib import Path

from gpu_assets.errors import InUse
from gpu_assets.settings import PROJECT_ROOT
from resources.workspace import Workspace

LOCK_FILE = "up.lock"
INSTANCE_FILE = "dagster.yaml"


class HomeLock:
    """One platform a home, by an OS lock that a crash cannot leave behind.

    The descriptor is given to the keepers of all children, so the lock is held until the last child of
    a supervisor that was killed is gone too. Two Dagster daemons on one home corrupt its run queue.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / LOCK_FILE
        self._descriptor: int | None = None

    def acquire(self) -> int:
        """Take the lock; the descriptor to give to keepers.

        Raises:
            InUse: if another process holds it.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise InUse(self._held_by()) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return descriptor

    def release(self) -> None:
        """Give the lock up; it stays held by keepers that still run."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _held_by(self) -> str:
        holder, home = self._path.read_text().strip(), self._path.parent
        if holder and not Path(f"/proc/{holder}").exists() and Path("/proc/self").exists():
            return (
                f"{home} is held by what process {holder}, which was killed, had started and which is ending now; "
                "try again in 20 seconds"
            )
        return (
            f"{home} is held by process {holder or 'unknown'}, which runs the platform on it; "
            "stop that one, or set GPU_ASSETS_HOME to another folder"
        )


def link_instance_config(workspace: Workspace) -> str | None:
    """Link the repository's dagster.yaml into DAGSTER_HOME; a note if a file of the user's is there instead."""
    link, target = workspace.dagster / INSTANCE_FILE, PROJECT_ROOT / INSTANCE_FILE
    if link.exists() and not link.is_symlink():
        return f"{link} is a file of your own and is used as it is; delete it to use {target}"
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(link)
    return None
