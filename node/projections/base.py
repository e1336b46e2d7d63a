"""What every projection is made of: typed tables over one transaction, and the fold.

Always: a projection reads and writes only its own tables; its rows decode to the same values on every machine.
Always: `fold` is total and deterministic: no clock, randomness, network or configuration.

Does not open environments or move the checkpoint (see `views.py`, `apply.py`).
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

import lmdb
import msgspec

from node.errors import StorageFailed
from node.events.entry import Entry
from node.events.event import Event

Row = TypeVar("Row")

# A fact's place in this node's log: (offset of the event that brought it, index within that event).
Place = tuple[int, int]

_PLACE = struct.Struct(">QI")
PLACE_BYTES = _PLACE.size
_LENGTHS = struct.Struct(">II")
_DIGESTED_AT_ONCE = 256
LAST_PLACE: Place = (2**64 - 1, 2**32 - 1)


class TableSpec(Generic[Row]):
    """A table's name and the type of its rows; `bytes` rows are stored as they are."""

    def __init__(self, name: str, row_type: type[Row]) -> None:
        self.name = name
        self.row_type = row_type
        self.encode: Any = bytes if row_type is bytes else msgspec.msgpack.Encoder().encode
        self.decode: Any = bytes if row_type is bytes else msgspec.msgpack.Decoder(row_type).decode


class Table(Generic[Row]):
    """A typed LMDB table inside one transaction.

    Always: what is put is read back at once, but lies here until `flush`, which the writer calls while the log syncs.
    """

    __slots__ = ("_db", "_decode", "_encode", "_pending", "_txn")

    def __init__(self, spec: TableSpec[Row], txn: lmdb.Transaction, db: object) -> None:
        self._txn, self._db = txn, db
        self._encode, self._decode = spec.encode, spec.decode
        self._pending: dict[bytes, Row] = {}

    def get(self, key: bytes) -> Row | None:
        row = self._pending.get(key)
        if row is not None:
            return row
        value = self._txn.get(key, db=self._db)
        return None if value is None else self._decode(value)

    def has(self, key: bytes) -> bool:
        return key in self._pending or self._txn.get(key, db=self._db) is not None

    def put(self, key: bytes, row: Row) -> None:
        self._pending[key] = row

    def delete(self, key: bytes) -> None:
        self._pending.pop(key, None)
        self._txn.delete(key, db=self._db)

    def flush(self) -> None:
        """Hand what was put to the transaction, in one call: between calls another thread may take the interpreter."""
        if not self._pending:
            return
        pending, encode = self._pending, self._encode
        rows = [(key, encode(pending[key])) for key in sorted(pending)]
        with self._txn.cursor(db=self._db) as cursor:
            consumed, _ = cursor.putmulti(rows)
        if consumed != len(rows):
            raise StorageFailed(f"{len(rows) - consumed} rows were not taken")
        self._pending.clear()

    def scan(self, prefix: bytes = b"", *, after: bytes | None = None) -> Iterator[tuple[bytes, Row]]:
        """Rows whose key starts with `prefix`, in key order; with `after`, those whose key is greater than it."""
        self.flush()
        with self._txn.cursor(db=self._db) as cursor:
            found = cursor.set_range(prefix if after is None else after)
            if found and after is not None and cursor.key() == after:
                found = cursor.next()
            while found and cursor.key().startswith(prefix):
                yield cursor.key(), self._decode(cursor.value())
                found = cursor.next()

    def values(self, prefix: bytes) -> list[Row]:
        """The rows of this prefix, in key order: for few of them."""
        if self._pending:
            self.flush()
        rows: list[Row] = []
        with self._txn.cursor(db=self._db) as cursor:
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                rows.append(self._decode(cursor.value()))
                found = cursor.next()
        return rows

    def stored_keys(self, prefix: bytes, limit: int) -> list[bytes]:
        """The first keys of this prefix that the transaction holds; what was put since the last flush is not among them."""
        keys: list[bytes] = []
        with self._txn.cursor(db=self._db) as cursor:
            found = cursor.set_range(prefix)
            while found and len(keys) < limit and cursor.key().startswith(prefix):
                keys.append(cursor.key())
                found = cursor.next()
        return keys

    def scan_back(self, prefix: bytes, *, before: bytes) -> Iterator[tuple[bytes, Row]]:
        """Rows whose key starts with `prefix` and is less than `before`, last first."""
        self.flush()
        with self._txn.cursor(db=self._db) as cursor:
            found = cursor.prev() if cursor.set_range(before) else cursor.last()
            while found and cursor.key().startswith(prefix):
                yield cursor.key(), self._decode(cursor.value())
                found = cursor.prev()

    def digest_into(self, digest: Any) -> None:
        self.flush()
        with self._txn.cursor(db=self._db) as cursor:
            # Many rows to a call: it takes longer to make a call than to hash a row.
            stored = iter(cursor) if cursor.first() else iter(())
            while rows := list(islice(stored, _DIGESTED_AT_ONCE)):
                digest.update(b"".join(self._digested(rows)))

    def _digested(self, rows: list[tuple[bytes, bytes]]) -> Iterator[bytes]:
        pack, encode, decode = _LENGTHS.pack, self._encode, self._decode
        for key, stored in rows:
            value = stored if decode is bytes else encode(decode(stored))
            yield pack(len(key), len(value))
            yield key
            yield value


class Projection:
    """Tables folded from the log, over one transaction. Subclasses declare what is below, and fold.

    `events` are the types that change its tables; `apply` passes it no others.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    tables: ClassVar[tuple[TableSpec, ...]]
    events: ClassVar[tuple[type[Event], ...]]

    def __init__(self, txn: lmdb.Transaction, handles: dict[str, object]) -> None:
        self._txn, self._handles = txn, handles
        self._tables: dict[TableSpec, Table] = {}

    def table(self, spec: TableSpec[Row]) -> Table[Row]:
        table = self._tables.get(spec)
        if table is None:
            table = self._tables[spec] = Table(spec, self._txn, self._handles[spec.name])
        return table

    def flush(self) -> None:
        """Hand what was folded to the transaction."""
        for table in self._tables.values():
            table.flush()

    def fold(self, entry: Entry) -> None:
        """Bring the tables from the state before `entry` to the one after it."""
        raise TypeError(f"{type(self).__name__} has no fold")

    def digest(self) -> str:
        """Hex SHA-256 over the decoded rows of all tables, in order: equal tables, equal digests."""
        digest = sha256()
        for spec in self.tables:
            digest.update(spec.name.encode() + b"\x00")
            self.table(spec).digest_into(digest)
        return digest.hexdigest()


def place_key(place: Place) -> bytes:
    return _PLACE.pack(*place)


def place_of(key: bytes) -> Place:
    """The place that ends an index key."""
    return _PLACE.unpack(key[-PLACE_BYTES:])


# One write makes the keys of its source, its organisation and its peer a dozen times.
@lru_cache(maxsize=1024)
def text_key(*texts: str) -> bytes:
    """A fixed-length key for texts of any length: LMDB keys are at most 511 bytes."""
    joined = "\x00".join(texts) if len(texts) > 1 else texts[0]
    return sha256(joined.encode()).digest()[:16]
