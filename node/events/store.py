"""LMDB environments: opening them, their named tables, and what their failures mean.

Always: every table is opened at start, and nothing is opened inside a transaction afterwards.
Always: map sizes are set once, large and sparse; a full map or disk is a refusal, never a resize under live readers.

Does not know what lies in a table.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import lmdb

from node.errors import LogDamaged, Refusal, StorageFailed, StorageFull

LOG_MAP_BYTES = 1 << 40
VIEWS_MAP_BYTES = 256 << 30

# A transaction that met a torn page is bad for whatever else is asked of it.
_OF_A_TORN_FILE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.InvalidError,
    lmdb.BadTxnError,
)
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Store:
    """One LMDB environment with its tables, by name."""

    def __init__(
        self, path: Path, *, tables: Iterable[str], map_bytes: int, is_synced: bool = True, is_readonly: bool = False
    ) -> None:
        self.path = path
        names = sorted(tables)
        with storage_errors():
            self._env = lmdb.open(
                # As bytes: a folder's name need not be text in any encoding.
                os.fsencode(path),
                map_size=map_bytes,
                max_dbs=len(names) + 1,
                sync=is_synced,
                readonly=is_readonly,
                create=not is_readonly,
                mode=0o600,
                # One process owns the folder; 126 slots are for the node's own concurrent snapshots and offline readers.
                max_readers=126,
            )
            self._tables = {name: self._env.open_db(name.encode(), create=not is_readonly) for name in names}

    def table(self, name: str) -> object:
        """The LMDB handle of a table."""
        return self._tables[name]

    def begin(self, *, write: bool = False) -> lmdb.Transaction:
        """A transaction; a write transaction must end on the thread that began it."""
        return self._env.begin(write=write)

    def sync(self) -> None:
        """Flush to disk, for stores whose commits do not."""
        self._env.sync(True)

    def close(self) -> None:
        self._env.close()


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
    return StorageFull(str(error)) if code in _FULL_ERRNOS else StorageFailed(str(error))
