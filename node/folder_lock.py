"""One process per data folder: an advisory lock on `DATA_DIR/lock`, held while the node runs.

Always: the lock goes with the process that holds it, however it ends; the file stays and means nothing by itself.

Does not lock out readers: LMDB lets them in beside the node (see replay/copying.py).
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class FolderInUse(Exception):
    """Another process holds the folder; the message is one line for the operator."""


class FolderLock:
    """The lock file of a data folder; `path` is the file, whose folder must exist."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise FolderInUse at once; OSError where the disk does not take it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            by = f"process {holder}" if holder else "another process"
            raise FolderInUse(f"{self._path.parent} is in use by {by}: stop that node first") from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of the lock; without it held, nothing happens."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            # Emptied, not removed: whoever waits to lock this very file would then hold one that nobody else can see.
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
