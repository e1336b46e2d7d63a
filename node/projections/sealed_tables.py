"""Tables of encrypted views: what names something in a key is replaced by a keyed hash, and rows are sealed (PROTOCOL §12).

Always: a projection sees the keys and rows that it put. What is hashed in a key (`TableSpec.hashed`) goes through AES-256 block by
block, a permutation: whoever has no key sees that two keys name the same thing, and not what; prefixes stay prefixes, places
behind them stay in order. A row is sealed to its table and its key.
Always: one key for all, so that views folded anew can be held against these, and rows of one carried over into the other.

Rows of tables that say so (`TableSpec.is_open`: places, counts and times) lie as they are, and so does a row without content.
"""

import threading
from collections.abc import Iterable, Iterator

import lmdb
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from node.errors import LogDamaged
from node.events.cipher import derive, seal_all, unseal
from node.projections.base import Handles, Table, TableSpec

_BLOCK = 16
_Stored = tuple[bytes, bytes]


class ViewsKey(threading.local):
    """The keys of one folder of views. What permutes keys is made once per thread: it is not to be used by two at a time."""

    def __init__(self, key: bytes) -> None:
        self.rows = derive(key, "rows")
        names = algorithms.AES(derive(key, "names"))
        # Every block by itself is what is wanted here: equal names must give equal keys, whatever stands before them.
        self.hide = Cipher(names, modes.ECB()).encryptor().update
        self.show = Cipher(names, modes.ECB()).decryptor().update


class SealedHandles(Handles):
    """Handles of encrypted views."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key = ViewsKey(key)

    def open(self, spec: TableSpec, txn: lmdb.Transaction) -> Table:
        return SealedTable(spec, txn, self[spec.name], self._key)


class SealedTable(Table):
    """A table whose keys are hidden and whose rows are sealed."""

    __slots__ = ("_decode_row", "_first", "_hashed", "_hide", "_is_open", "_key", "_prefix", "_show")

    def __init__(self, spec: TableSpec, txn: lmdb.Transaction, db: object, key: ViewsKey) -> None:
        super().__init__(spec, txn, db)
        # What a table in clear does is done with rows as they lie; they are opened here.
        self._decode, self._decode_row = bytes, spec.decode
        self._key, self._hashed, self._is_open = key.rows, spec.hashed, spec.is_open
        self._hide, self._show = key.hide, key.show
        # What nearly every table has: one span, at the beginning.
        self._first = spec.hashed[0][1] if len(spec.hashed) == 1 and spec.hashed[0][0] == 0 else 0
        self._prefix = spec.name.encode() + b"\x00"

    def stored_key(self, key: bytes) -> bytes:
        """A key, or as much of one as a prefix has, as it lies here."""
        return self._through(self._hide, key)

    def shown_key(self, stored: bytes) -> bytes:
        return self._through(self._show, stored)

    def _through(self, permute: object, key: bytes) -> bytes:
        end = self._first
        if end and not len(key[:end]) % _BLOCK:
            return permute(key[:end]) + key[end:]
        for start, end in self._hashed:
            part = key[start:end]
            if not part:
                break
            if len(part) % _BLOCK:
                raise ValueError(f"{self._prefix!r}: a prefix ends within what is hashed")
            key = key[:start] + permute(part) + key[end:]
        return key

    def _stored_rows(self, rows: Iterable[_Stored]) -> list[_Stored]:
        """Rows, encoded, as they will lie here and in that order."""
        hidden = [(self.stored_key(key), row) for key, row in rows]
        hidden.sort()
        if self._is_open:
            return hidden
        jobs = [(self._key, self._prefix + key, row) for key, row in hidden if row]
        sealed = iter(seal_all(jobs))
        return [(key, next(sealed) if row else row) for key, row in hidden]

    def _unsealed(self, key: bytes, row: bytes) -> bytes:
        """The encoded row that lies here under this stored key."""
        if self._is_open or not row:
            return row
        try:
            return unseal(self._key, self._prefix + key, row)
        except ValueError as error:
            raise LogDamaged(f"a row of the views cannot be decrypted ({self._prefix[:-1].decode()})") from error

    def opened(self, stored: bytes, row: bytes) -> object:
        return self._decode_row(self._unsealed(stored, row))

    def get(self, key: bytes) -> object:
        row = self._pending.get(key)
        if row is not None:
            return row
        stored = self.stored_key(key)
        value = self._txn.get(stored, db=self._db)
        return None if value is None else self.opened(stored, value)

    def has(self, key: bytes) -> bool:
        return key in self._pending or self._txn.get(self.stored_key(key), db=self._db) is not None

    def delete(self, key: bytes) -> None:
        self._pending.pop(key, None)
        self._txn.delete(self.stored_key(key), db=self._db)

    def _encoded(self) -> list[_Stored]:
        encode = self._encode
        return self._stored_rows([(key, encode(row)) for key, row in self._pending.items()])

    def put_encoded(self, rows: list[_Stored]) -> None:
        super().put_encoded(self._stored_rows(rows))

    def put_keys(self, keys: list[bytes]) -> None:
        super().put_keys(sorted(map(self.stored_key, keys)))

    def with_prefixes(self, prefixes: Iterable[bytes]) -> Iterator[bytes]:
        return map(self.shown_key, super().with_prefixes(map(self.stored_key, prefixes)))

    def scan(self, prefix: bytes = b"", *, after: bytes | None = None) -> Iterator[tuple[bytes, object]]:
        behind = None if after is None else self.stored_key(after)
        return self._shown(super().scan(self.stored_key(prefix), after=behind))

    def values(self, prefix: bytes) -> list[object]:
        return [row for _, row in self.scan(prefix)]

    def stored_keys(self, prefix: bytes, limit: int) -> list[bytes]:
        return list(map(self.shown_key, super().stored_keys(self.stored_key(prefix), limit)))

    def scan_back(self, prefix: bytes, *, before: bytes) -> Iterator[tuple[bytes, object]]:
        return self._shown(super().scan_back(self.stored_key(prefix), before=self.stored_key(before)))

    def _shown(self, rows: Iterator[_Stored]) -> Iterator[tuple[bytes, object]]:
        for key, row in rows:
            yield self.shown_key(key), self.opened(key, row)

    def _encoded_rows(self, rows: Iterator[_Stored]) -> Iterator[_Stored]:
        """Rows in the order of the keys that were put, as a table in clear has them: equal tables have equal digests."""
        shown = ((self.shown_key(key), self._encode(self.opened(key, row))) for key, row in rows)
        # They lie in another order than that; what is held of them is small, because facts and documents lie by their places.
        return iter(sorted(shown)) if self._hashed else shown
