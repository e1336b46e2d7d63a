"""LMDB environments: opening them, their named tables, and what their failures mean.

Always: every table is opened at start, and nothing is opened inside a transaction afterwards.
Always: map sizes are set once, large and sparse; a full map or disk is a refusal, never a resize under live readers.

Does not know what lies in a table.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from node.errors import LogDamaged, StorageFailed, StorageFull

LOG_MAP_BYTES = 1 << 40
VIEWS_MAP_BYTES = 256 << 30

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


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn LMDB's failures into refusals: no room, or a file that is not what it should be."""
    try:
        yield
    except (lmdb.MapFullError, lmdb.TxnFullError) as error:
        raise StorageFull(str(error)) from error
    except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.InvalidError) as error:
        raise LogDamaged(str(error)) from error
    except lmdb.NotFoundError as error:
        raise LogDamaged(f"a table is missing: {error}") from error
    except (lmdb.DiskError, OSError, lmdb.Error) as error:
        code = getattr(error, "code", None) or getattr(error, "errno", None)
        if code in _FULL_ERRNOS:
            raise StorageFull(str(error)) from error
        raise StorageFailed(str(error)) from error
