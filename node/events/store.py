"""LMDB environments: opening them, their named tables, and what their failures mean.

Always: every table is opened at start, or made before anything is written; nothing is opened inside a transaction.
Always: map sizes are set once, large and sparse; a full map or disk is a refusal, never a resize under live readers.

Does not know what lies in a table.
"""

import errno
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import lmdb

from node.durable import sync
from node.errors import LogDamaged, Refusal, StorageFailed, StorageFull
from node.events.log_file import DATA_FILE

LOG_MAP_BYTES = 1 << 40
VIEWS_MAP_BYTES = 256 << 30
# What has to fit beside a log before writes are taken again; the largest append is larger, most are far smaller.
ROOM_BYTES = 1 << 20
# One process owns the folder; the slots are for the node's own concurrent snapshots and offline readers.
_MAX_READERS = 126
# For how long a file may be waited for to be exchanged, how long others wait meanwhile, and between two tries.
_EXCHANGE_S, _AT_REST_S, _BETWEEN_TRIES_S = 30.0, 0.02, 0.02
# LMDB's own measure for so many readers.
_LOCK_FILE_BYTES = 8192

# A transaction that met a torn page is bad for whatever else is asked of it.
_OF_A_TORN_FILE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.BadTxnError,
)
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Store:
    """One LMDB environment with its tables, by name."""

    def __init__(
        self,
        path: Path,
        *,
        tables: Iterable[str],
        map_bytes: int,
        is_synced: bool = True,
        is_readonly: bool = False,
        if_there: Iterable[str] = (),
    ) -> None:
        """Tables `if_there` are opened where the environment has them, and made by `make_table` alone."""
        self.path = path
        self._map_bytes, self._is_synced, self._is_readonly = map_bytes, is_synced, is_readonly
        self._names, self._others = sorted(tables), sorted(if_there)
        self._tables: dict[str, object] = {}
        self._is_open, self._is_mending = False, False
        self._gate = threading.Lock()
        with storage_errors():
            self._open()

    def table(self, name: str) -> object:
        """The LMDB handle of a table."""
        return self._tables[name]

    def has(self, name: str) -> bool:
        """Whether there is such a table."""
        return name in self._tables

    def make_table(self, name: str) -> None:
        """Make one of `if_there`; outside of transactions."""
        with storage_errors():
            self._tables[name] = self._env.open_db(name.encode())

    def begin(self, *, write: bool = False) -> lmdb.Transaction:
        """A transaction; a write transaction must end on the thread that began it."""
        try:
            with self._gate:
                return self._env.begin(write=write)
        except lmdb.Error as error:
            raise refusal_of(error) from error

    def copy_to(self, folder: Path) -> None:
        """Write what is committed now into a new environment in `folder`, without free pages, and have it on disk."""
        with storage_errors():
            folder.mkdir(mode=0o700)
            self._env.copy(os.fsencode(folder), compact=True)
            path = folder / DATA_FILE
            path.chmod(0o600)
            for one in (path, folder, folder.parent):
                sync(one)

    def exchange(self, copy: Path, old: Path) -> None:
        """Go on with the environment in `copy`, which comes to lie where this one does; this one then lies in `old`.

        Waits for a moment in which nobody reads; raises StorageFailed where none comes. Nobody writes meanwhile. Where it fails
        all is as it was.
        """
        deadline = time.monotonic() + _EXCHANGE_S
        while time.monotonic() < deadline:
            # Whoever begins meanwhile waits, but not for long: a reader may be waiting for that one.
            with self._gate, storage_errors():
                if self._comes_to_rest():
                    self._exchange(copy, old)
                    return
            time.sleep(_BETWEEN_TRIES_S)
        raise StorageFailed("the file is read all the time: it could not be exchanged")

    def _comes_to_rest(self) -> bool:
        until = time.monotonic() + _AT_REST_S
        while self._is_read():
            if time.monotonic() > until:
                return False
            time.sleep(_AT_REST_S / 10)
        return True

    def _exchange(self, copy: Path, old: Path) -> None:
        self._env.close()
        try:
            self.path.rename(old)
        except OSError:
            self._open()
            raise
        try:
            copy.rename(self.path)
            sync(self.path.parent)
            self._open()
        except BaseException:
            if self.path.exists():
                self.path.rename(copy)
            old.rename(self.path)
            self._open()
            raise

    def sync(self) -> None:
        """Flush to disk, for stores whose commits do not."""
        self._env.sync(True)

    def close(self) -> None:
        self._env.close()

    def require_in_place(self) -> None:
        """Raise StorageFailed unless the file lies where it was opened: what is written goes with it, wherever it was moved."""
        try:
            with self._gate:
                found = _identity(self.path)
        except OSError as error:
            raise StorageFailed(f"{self.path / DATA_FILE}: {os.strerror(error.errno or 0)}") from error
        if found != self._file:
            raise StorageFailed(f"{self.path / DATA_FILE} is not the file that was opened")

    def require_room(self) -> None:
        """Raise StorageFull or StorageFailed unless `ROOM_BYTES` can be written and synced beside the file, and fit into it."""
        with storage_errors():
            with tempfile.TemporaryFile(dir=self.path) as scratch:
                scratch.write(bytes(ROOM_BYTES))
                scratch.flush()
                os.fsync(scratch.fileno())
            free_pages = self._map_bytes // os.sysconf("SC_PAGE_SIZE") - self._env.info()["last_pgno"] - 1
        if free_pages * os.sysconf("SC_PAGE_SIZE") < ROOM_BYTES:
            raise StorageFull("the map is full")
        if self._is_at_size_limit():
            raise StorageFull("the file has come to the limit on file sizes")

    def mend(self) -> None:
        """Open the file again where LMDB has given it up, which it does when the page that makes a commit valid is not written.

        Raises StorageFailed while somebody still reads, and until what LMDB put back in that page's place is on disk: the
        page itself may be there, and what it names must not be overwritten before.
        """
        if not self._is_mending:
            try:
                with self._env.begin():
                    return
            except lmdb.PanicError:
                self._is_mending = True
        with storage_errors():
            if self._is_open and self._is_read():
                raise StorageFailed("transactions begun before the failure are still read")
            self._is_open = False
            self._env.close()
            self._open()
            self._env.sync(True)
        self._is_mending = False

    def reason_of(self, failure: StorageFull | StorageFailed) -> StorageFull | StorageFailed:
        """What a write failed of. LMDB calls one that was cut short an input/output error, whatever cut it short."""
        if isinstance(failure, StorageFull):
            return failure
        try:
            room = os.statvfs(self.path)
            is_full = room.f_bavail * room.f_frsize < ROOM_BYTES or self._is_at_size_limit()
        except OSError:
            return failure
        return StorageFull(failure.detail) if is_full else failure

    def _open(self) -> None:
        if not self._is_readonly:
            _reserve_lock_file(self.path / "lock.mdb")
        self._env = lmdb.open(
            # As bytes: a folder's name need not be text in any encoding.
            os.fsencode(self.path),
            map_size=self._map_bytes,
            max_dbs=len(self._names) + len(self._others) + 1,
            sync=self._is_synced,
            readonly=self._is_readonly,
            create=not self._is_readonly,
            mode=0o600,
            max_readers=_MAX_READERS,
        )
        for name in self._names:
            self._tables[name] = self._env.open_db(name.encode(), create=not self._is_readonly)
        for name in self._others:
            with suppress(lmdb.NotFoundError):
                self._tables[name] = self._env.open_db(name.encode(), create=False)
        self._file = _identity(self.path)
        self._is_open = True

    def _is_read(self) -> bool:
        """Whether a transaction of this process is under way. None begins any more in an environment that was given up."""
        slots = [line.split() for line in self._env.readers().splitlines()]
        return any(slot[0] == str(os.getpid()) and slot[2] != "-" for slot in slots if len(slot) == 3)

    def _is_at_size_limit(self) -> bool:
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = (self.path / DATA_FILE).stat().st_size
        return limit != resource.RLIM_INFINITY and size + ROOM_BYTES > limit


def _identity(folder: Path) -> tuple[int, int]:
    """Which file it is that environments in this folder lie in."""
    found = (folder / DATA_FILE).stat()
    return found.st_dev, found.st_ino


def _reserve_lock_file(path: Path) -> None:
    """Give LMDB's lock file its blocks: it is written as memory, where a disk without room is no error but the end of the process.

    Not while the environment is open: closing any descriptor of that file lets go of LMDB's locks on it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_FILE_BYTES)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


class StorageErrors:
    """Turns LMDB's failures within a `with` into refusals. By hand, and one for all: every read has one around it."""

    __slots__ = ()

    def __enter__(self) -> None:
        """There is nothing to begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, lmdb.Error | OSError):
            raise refusal_of(error) from error


_STORAGE_ERRORS = StorageErrors()


def storage_errors() -> StorageErrors:
    """For the `with` around whatever speaks to LMDB."""
    return _STORAGE_ERRORS


def refusal_of(error: lmdb.Error | OSError) -> Refusal:
    """What a failure of LMDB's means: no room, or a file that is not what it should be."""
    if isinstance(error, lmdb.MapFullError | lmdb.TxnFullError):
        return StorageFull(str(error))
    if isinstance(error, _OF_A_TORN_FILE):
        return LogDamaged(str(error))
    if isinstance(error, lmdb.NotFoundError):
        return LogDamaged(f"a table is missing: {error}")
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    if code in _FULL_ERRNOS:
        return StorageFull(str(error))
    # That is how LMDB words it.
    is_cut_short = isinstance(error, lmdb.Error) and code == errno.EIO
    return StorageFailed(f"{error}, or no room for all of a write" if is_cut_short else str(error))
