"""What every projection is made of: typed tables over one transaction, and the fold.

Always: a projection reads and writes only its own tables; its rows decode to the same values on every machine.
Always: `fold` is total and deterministic: no clock, randomness, network or configuration.

Does not open environments or move the checkpoint (see `views.py`, `apply.py`).
"""

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import sha256
from itertools import chain, islice, repeat
from typing import Any, ClassVar, Generic, TypeVar

import lmdb
import msgspec

from node.errors import StorageFailed
from node.events.entry import Entry
from node.events.event import Event

Row = TypeVar("Row")

# A fact's place in this node's log: (offset of the event that brought it, index within that event).
Place = tuple[int, int]

DAY_MS = 86_400_000
_PLACE = struct.Struct(">QI")
PLACE_BYTES = _PLACE.size
_DIGESTED_AT_ONCE = 256
LAST_PLACE: Place = (2**64 - 1, 2**32 - 1)


class TableSpec(Generic[Row]):
    """A table's name and the type of its rows; `bytes` rows are stored as they are.

    `hashed` are the spans of a key that are hashes of what is said or named, whole blocks of 16 bytes: in encrypted views they
    are keyed. The rest of a key, and a row of a table that `is_open`, tell of places, times and numbers alone.
    """

    def __init__(
        self, name: str, row_type: type[Row], *, hashed: tuple[tuple[int, int], ...] = (), is_open: bool = False
    ) -> None:
        self.name = name
        self.row_type = row_type
        self.hashed, self.is_open = hashed, is_open
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
        # A reader has nothing pending.
        row = self._pending.get(key) if self._pending else None
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
        rows = self._encoded()
        with self._txn.cursor(db=self._db) as cursor:
            consumed, _ = cursor.putmulti(rows)
        _require_taken(consumed, len(rows))
        self._pending.clear()

    def _encoded(self) -> list[tuple[bytes, bytes]]:
        pending, encode = self._pending, self._encode
        return [(key, encode(pending[key])) for key in sorted(pending)]

    def put_encoded(self, rows: list[tuple[bytes, bytes]]) -> None:
        """Hand rows to the transaction, encoded and in the order of their keys; what was put before is to be flushed."""
        if rows:
            self._put_in_order(rows[0][0], rows, len(rows))

    def put_keys(self, keys: list[bytes]) -> None:
        """The same of rows that have a key and nothing else."""
        if keys:
            self._put_in_order(keys[0], zip(keys, repeat(b"")), len(keys))

    def _put_in_order(self, first: bytes, rows: Iterable[tuple[bytes, bytes]], count: int) -> None:
        with self._txn.cursor(db=self._db) as cursor:
            # Behind the last key pages are filled whole, where they are split in halves otherwise.
            is_behind = not cursor.last() or cursor.key() < first
            consumed, _ = cursor.putmulti(rows, append=is_behind)
        _require_taken(consumed, count)

    def with_prefixes(self, prefixes: Iterable[bytes]) -> Iterator[bytes]:
        """Those of the prefixes that the transaction holds a key of; what was put since the last flush is not among them."""
        with self._txn.cursor(db=self._db) as cursor:
            for prefix in prefixes:
                if cursor.set_range(prefix) and cursor.key().startswith(prefix):
                    yield prefix

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
        cursor = self._txn.cursor(self._db)
        found = cursor.set_range(prefix)
        while found and len(keys) < limit and (key := cursor.key()).startswith(prefix):
            keys.append(key)
            found = cursor.next()
        cursor.close()
        return keys

    def scan_back(self, prefix: bytes, *, before: bytes) -> Iterator[tuple[bytes, Row]]:
        """Rows whose key starts with `prefix` and is less than `before`, last first."""
        self.flush()
        with self._txn.cursor(db=self._db) as cursor:
            found = cursor.prev() if cursor.set_range(before) else cursor.last()
            while found and cursor.key().startswith(prefix):
                yield cursor.key(), self._decode(cursor.value())
                found = cursor.prev()

    def shown_key(self, stored: bytes) -> bytes:
        """The key that lies here as `stored`."""
        return stored

    def opened(self, stored: bytes, row: bytes) -> Row:
        """The row whose bytes lie here under a key, both as a cursor finds them."""
        return self._decode(row)

    def digest(self, *, is_fresh: bool = False) -> bytes:
        """SHA-256 over the decoded rows, in order. Rows that are `fresh`, which this version has just encoded, are not decoded
        for it: they would be encoded to the same bytes again.
        """
        self.flush()
        digest, decoded = sha256(), is_fresh or self._decode is bytes
        with self._txn.cursor(db=self._db) as cursor:
            # Many rows to a call: it takes longer to make a call than to hash a row.
            stored = self._encoded_rows(iter(cursor) if cursor.first() else iter(()))
            while rows := list(islice(stored, _DIGESTED_AT_ONCE)):
                texts = list(chain.from_iterable(rows if decoded else self._encoded_again(rows)))
                digest.update(struct.pack(f">{1 + len(texts)}I", len(texts), *map(len, texts)))
                digest.update(b"".join(texts))
        return digest.digest()

    def _encoded_rows(self, rows: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """Rows as they were put and encoded, in the order of their keys."""
        return rows

    def _encoded_again(self, rows: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        encode, decode = self._encode, self._decode
        return [(key, encode(decode(stored))) for key, stored in rows]


class Handles(dict[str, object]):
    """The LMDB handles of views, by the names of their tables."""

    def open(self, spec: TableSpec[Row], txn: lmdb.Transaction) -> Table[Row]:
        return Table(spec, txn, self[spec.name])


class Projection:
    """Tables folded from the log, over one transaction. Subclasses declare what is below, and fold.

    `events` are the types that change its tables; `apply` passes it no others.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    tables: ClassVar[tuple[TableSpec, ...]]
    events: ClassVar[tuple[type[Event], ...]]

    def __init__(self, txn: lmdb.Transaction, handles: Handles) -> None:
        self._txn, self._handles = txn, handles
        self._tables: dict[TableSpec, Table] = {}

    def table(self, spec: TableSpec[Row]) -> Table[Row]:
        table = self._tables.get(spec)
        if table is None:
            table = self._tables[spec] = self._handles.open(spec, self._txn)
        return table

    def flush(self) -> None:
        """Hand what was folded to the transaction."""
        for table in self._tables.values():
            table.flush()

    def fold(self, entry: Entry) -> None:
        """Bring the tables from the state before `entry` to the one after it."""
        raise TypeError(f"{type(self).__name__} has no fold")

    def digest(self) -> str:
        """What `digest_of` makes of the tables: equal tables, equal digests."""
        return self.digest_of({spec.name: self.table(spec).digest() for spec in self.tables})

    @classmethod
    def digest_of(cls, tables: dict[str, bytes]) -> str:
        """Hex SHA-256 over the tables' own digests, by name, in the order in which the projection declares them."""
        return sha256(b"".join(spec.name.encode() + b"\x00" + tables[spec.name] for spec in cls.tables)).hexdigest()


def _require_taken(consumed: int, count: int) -> None:
    if consumed != count:
        raise StorageFailed(f"{count - consumed} rows were not taken")


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
    return new_text_key(joined)


def text_keys(texts: Iterable[str]) -> list[bytes]:
    """`text_key` of each, for texts that do not come again."""
    return list(map(new_text_key, texts))


def new_text_key(text: str) -> bytes:
    """`text_key` of a text that does not come again."""
    return sha256(text.encode()).digest()[:16]
