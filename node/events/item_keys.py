"""The keys of a log's items, in the table `item_keys` beside them: one for each entity, one for all that is about no entity.

Always: a key is random, and lies wrapped under the file key (see `key_file.py`) in the row that its name gives: 16 zero bytes, or a
keyed hash of the entity. An item is sealed under the key whose name its row begins with, and bound to that and its place.
Always: an entity's key is in the append that brings its first item, so that it costs no sync of its own and none is ever without.
The list of places that an erasure names lies in clear: it holds no names, and without it nobody who has no key could tell items
that were erased from items that are missing.
Always: without an entity's row nothing opens its items; whoever deletes one has to wrap the rest under a new file key (`rewrap`)
and to compact the file, because LMDB keeps the bytes of rows that were deleted.

Does not read a file or know a secret; does not decide what is erased.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain, repeat
from typing import Protocol

import lmdb
from msgspec import Struct

from node.at_rest import fingerprint
from node.errors import LogDamaged, Refusal
from node.events.cipher import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Job, derive, new_key, seal_all, unseal
from node.events.entry import Entry
from node.events.erasures import PLACES_ITEM
from node.events.key_file import ID_BYTES, FileKey
from node.events.store import Store
from node.events.subjects import entities_of
from node.events.tombstones import EntityErased

ITEM_KEYS = "item_keys"
# In the table meta: the id of the file key that the rows are wrapped under; there in an encrypted log alone.
AT_REST = b"at_rest"
CLEAR, SEALED = b"\x00", b"\x01"
NAME_BYTES = 16
WRAPPED_BYTES = NONCE_BYTES + KEY_BYTES + TAG_BYTES
NO_ENTITY = bytes(NAME_BYTES)
_HEAD = len(SEALED) + NAME_BYTES
_KEY_PLACE = b"stigmem-item-key/v1"
# Keys in memory: a reader asks for facts of the same entities again.
_KEPT = 4096


class LogLocked(Refusal):
    """The log is encrypted, and no key was given that opens it."""

    code = "internal"

    def __init__(self) -> None:
        super().__init__("the log is encrypted: set STIGMEM_AT_REST_ENCRYPTION=on and the key (docs/encryption.md)")


class Items(Protocol):
    """How the items of one log lie: what is read of a row, under the 12 bytes of its place."""

    is_readable: bool

    def open(self, txn: lmdb.Transaction, place: bytes, row: bytes) -> bytes:
        """Salt ‖ content. Raises LogDamaged."""


class Laid(Struct, frozen=True):
    """What an append writes: rows of items, rows of the key table, and the keys that are new with it, by name."""

    items: list[tuple[bytes, bytes]]
    keys: list[tuple[bytes, bytes]]
    fresh: dict[bytes, bytes]


class ClearItems:
    """Items of a log that is not encrypted."""

    is_readable = True

    def open(self, _: lmdb.Transaction, place: bytes, row: bytes) -> bytes:
        if row[:1] != CLEAR:
            raise _other_form(place, row)
        return row[1:]


class LockedItems:
    """Items of an encrypted log without its key: they can be counted."""

    is_readable = False

    def open(self, _: lmdb.Transaction, __: bytes, row: bytes) -> bytes:
        if row[:1] != CLEAR:
            raise LogLocked
        return row[1:]


class SealedItems:
    """Items of an encrypted log, with its key. Used by the writer and by readers on other threads."""

    is_readable = True

    def __init__(self, store: Store, file_key: FileKey, own: bytes) -> None:
        self._store, self.file_key, self._own = store, file_key, own
        # What rows are wrapped under that a reader of an older snapshot finds, or of a newer one than is known to be on disk.
        self._other: FileKey | None = None
        self._naming = derive(own, "names of entities' keys")
        # Two, because a reader of an older snapshot may still find a key that was erased: nothing new is sealed under that.
        self._known: dict[bytes, bytes] = {NO_ENTITY: own}
        self._writing: dict[bytes, bytes] = {NO_ENTITY: own}

    @classmethod
    def found(cls, txn: lmdb.Transaction, store: Store, file_key: FileKey) -> "SealedItems":
        """Make the key table of a log that has no entries, in a write transaction."""
        own, table = new_key(), store.table(ITEM_KEYS)
        txn.put(NO_ENTITY, _wrapped(file_key, [(NO_ENTITY, own)])[0][1], db=table)
        txn.put(AT_REST, file_key.id, db=store.table("meta"))
        return cls(store, file_key, own)

    @classmethod
    def load(cls, txn: lmdb.Transaction, store: Store, file_key: FileKey) -> "SealedItems":
        """The key table as it stands. Raises LogDamaged where it does not open with the file key that it names."""
        return cls(store, file_key, _unwrapped(file_key, NO_ENTITY, txn.get(NO_ENTITY, db=store.table(ITEM_KEYS))))

    @property
    def mark(self) -> str:
        """What tells this log's keys from those that it had before it was encrypted anew."""
        return fingerprint(self._own, "items")

    def wrapped(self, txn: lmdb.Transaction, name: bytes) -> bytes:
        """The key of that name as it lies. Raises LogDamaged where there is none."""
        row = txn.get(name, db=self._store.table(ITEM_KEYS))
        if row is None:
            raise LogDamaged(f"the key table has no row {name.hex()}")
        return row

    def name_of(self, entity: str) -> bytes:
        """Under which name the key of an entity lies; `entity` in normal form."""
        return derive(self._naming, entity, NAME_BYTES)

    def lay(self, txn: lmdb.Transaction, entries: Sequence[Entry], place: "Place") -> Laid:
        """The rows of entries that are to be appended. Nothing is kept of their new keys until `took`."""
        fresh: dict[bytes, bytes] = {}
        named, jobs, clear = [], [], []
        for entry in entries:
            # Of an event that is erased whole, no more is known than that it was.
            entities = chain(entities_of(entry.event), repeat(None))
            for index, (item, entity) in enumerate(zip(entry.items, entities, strict=False)):
                if item is None:
                    continue  # it was erased, of a log that is given another form
                at = place(entry.offset, index)
                if index == PLACES_ITEM and isinstance(entry.event, EntityErased):
                    clear.append((at, CLEAR + item.salt + item.content))
                    continue
                name = NO_ENTITY if entity is None else self.name_of(entity)
                key = self._writing.get(name) or fresh.get(name)
                if key is None:
                    key = self._key_for(txn, name, fresh)
                named.append((at, name))
                jobs.append((key, at + name, item.salt + item.content))
        rows = [(at, SEALED + name + sealed) for (at, name), sealed in zip(named, seal_all(jobs), strict=True)]
        wrapped = _wrapped(self.under(txn), list(fresh.items())) if fresh else []
        return Laid(sorted(rows + clear) if clear else rows, wrapped, fresh)

    def took(self, laid: Laid) -> None:
        """What was laid is on disk: a key that is not must never be used again."""
        for name, key in laid.fresh.items():
            self._keep(self._writing, name, key)
            self._keep(self._known, name, key)

    def open(self, txn: lmdb.Transaction, place: bytes, row: bytes) -> bytes:
        if row[:1] == CLEAR:
            return row[1:]
        if row[:1] != SEALED:
            raise _other_form(place, row)
        name = row[1:_HEAD]
        known = self._known.get(name)
        if known is not None:
            with suppress(ValueError):
                return unseal(known, place + name, row[_HEAD:])
        # Not known, or that of an entity that was erased and named again since.
        key = self._read(txn, name)
        if key is None:
            raise LogDamaged(f"item {index_of(place)}: the key that it is encrypted under is missing")
        self._keep(self._known, name, key)
        try:
            return unseal(key, place + name, row[_HEAD:])
        except ValueError as error:
            raise LogDamaged(f"item {index_of(place)} cannot be decrypted: {error}") from error

    def under(self, txn: lmdb.Transaction) -> FileKey:
        """What the rows are wrapped under that a transaction finds: after a commit of unknown outcome it may be either."""
        named = txn.get(AT_REST, db=self._store.table("meta"))
        for key in (self.file_key, self._other):
            if key is not None and key.id == named:
                return key
        raise LogDamaged("the key table is wrapped under a key that nobody here has heard of")

    def erase(self, txn: lmdb.Transaction, entities: Iterable[str]) -> None:
        """Delete the keys of these entities, in normal form; to be followed by `rewrap` in the same transaction."""
        for name in map(self.name_of, entities):
            txn.delete(name, db=self._store.table(ITEM_KEYS))
            self._writing.pop(name, None)
            self._known.pop(name, None)

    def rewrap(self, txn: lmdb.Transaction, file_key: FileKey) -> None:
        """Wrap every key under another file key, which the log names from then on. `use` it once that is on disk.

        The steps of an erasure (`Log.erase`, node/erasing.py): write `file_key` to NEXT_KEY_FILE; in one transaction `erase` and
        `rewrap`; once that is on disk `use`, and have the key file replaced; then compact the file. Cut off anywhere,
        `finish_change` finds by the id in the log which of the two files is the one.
        """
        self.file_key, self._other = self.under(txn), file_key
        with txn.cursor(db=self._store.table(ITEM_KEYS)) as cursor:
            rows = rewrapped(cursor, self.file_key, file_key)
        for name, row in rows:
            txn.put(name, row, db=self._store.table(ITEM_KEYS))
        txn.put(AT_REST, file_key.id, db=self._store.table("meta"))

    def use(self, file_key: FileKey) -> None:
        """What `rewrap` wrote is on disk."""
        self.file_key, self._other = file_key, self.file_key

    def check(self, txn: lmdb.Transaction) -> None:
        """Raise LogDamaged where a row of the key table is not one that the file key opens."""
        with txn.cursor(db=self._store.table(ITEM_KEYS)) as cursor:
            for name, row in cursor:
                self._unwrapped(name, row)

    def _key_for(self, txn: lmdb.Transaction, name: bytes, fresh: dict[bytes, bytes]) -> bytes:
        key = self._read(txn, name)
        if key is None:
            key = fresh[name] = new_key()
        else:
            self._keep(self._writing, name, key)
        return key

    def _read(self, txn: lmdb.Transaction, name: bytes) -> bytes | None:
        row = txn.get(name, db=self._store.table(ITEM_KEYS)) if len(name) == NAME_BYTES else None
        return None if row is None else self._unwrapped(name, row)

    def _unwrapped(self, name: bytes, row: bytes) -> bytes:
        other = self._other
        try:
            return _unwrapped(self.file_key, name, row)
        except LogDamaged:
            if other is None:
                raise
            return _unwrapped(other, name, row)

    def _keep(self, keys: dict[bytes, bytes], name: bytes, key: bytes) -> None:
        if len(keys) >= _KEPT:
            keys.clear()
            keys[NO_ENTITY] = self._own
        keys[name] = key


def name_in(row: bytes) -> bytes | None:
    """Under which name the key of a sealed item lies; None for an item in clear."""
    return row[1:_HEAD] if row[:1] == SEALED else None


def rewrapped(keys: Iterable[tuple[bytes, bytes]], old: FileKey, new: FileKey) -> list[tuple[bytes, bytes]]:
    """Rows of a key table, wrapped under another file key. Raises LogDamaged where one does not open."""
    return _wrapped(new, [(name, _unwrapped(old, name, row)) for name, row in keys])


class Place(Protocol):
    """The 12 bytes under which an item lies."""

    def __call__(self, offset: int, index: int) -> bytes: ...


def items_in(txn: lmdb.Transaction, store: Store, file_keys: Sequence[FileKey]) -> Items:
    """How the items of the log in `store` lie, and the key to them if it is among these."""
    file_key_id = txn.get(AT_REST, db=store.table("meta"))
    if file_key_id is None:
        return ClearItems()
    if len(file_key_id) != ID_BYTES or not store.has(ITEM_KEYS):
        raise LogDamaged("the table meta does not say under which key the log is encrypted")
    for file_key in file_keys:
        if file_key.id == file_key_id:
            return SealedItems.load(txn, store, file_key)
    return LockedItems()


def _other_form(place: bytes, row: bytes) -> LogDamaged:
    return LogDamaged(
        f"item {index_of(place)} has form {row[:1].hex() or 'none'}, which this version does not read here"
    )


def index_of(place: bytes) -> int:
    return int.from_bytes(place[8:])


def _wrapped(file_key: FileKey, keys: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    jobs: list[Job] = [(file_key.items, _KEY_PLACE + name, key) for name, key in keys]
    return [(name, sealed) for (name, _), sealed in zip(keys, seal_all(jobs), strict=True)]


def _unwrapped(file_key: FileKey, name: bytes, row: bytes | None) -> bytes:
    try:
        key = unseal(file_key.items, _KEY_PLACE + name, row or b"")
    except ValueError as error:
        raise LogDamaged(f"the key table has a row that cannot be decrypted: {name.hex()}") from error
    if len(key) != KEY_BYTES:
        raise LogDamaged(f"the key table has a row that is no key: {name.hex()}")
    return key
