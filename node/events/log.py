"""The append-only log of signed entries: append at an expected offset, read, follow, head.

Always: an append is one transaction and one fsync, whole or not at all; offsets have no gaps; nothing is ever rewritten.
Always: followers and proofs see an entry only after `announce`, which the writer calls once the views hold it.

The interface is what another engine can keep too: a wrong expected offset is a refusal, and an append whose outcome is not
known is never an acknowledgement. Does not decide, fold or sign.
"""

import asyncio
import shutil
import struct
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import lmdb
from msgspec import Struct

from node.durable import make_folder, sync
from node.errors import LogDamaged, NotReady, Refusal, StorageFailed
from node.events.entry import SALT_BYTES, Entry, Item, entry_of, open_entry, open_header
from node.events.erasures import NOTHING_ERASED, PLACES_ITEM, Erasures, add_erasures, erasing_offsets, is_erased
from node.events.evidence import Evidence, Proven
from node.events.item_keys import AT_REST, CLEAR, ITEM_KEYS, Laid, SealedItems, items_in
from node.events.key_file import FileKey
from node.events.log_file import DATA_FILE
from node.events.store import LOG_MAP_BYTES, Store, refusal_of, storage_errors
from node.events.tombstones import EntityErased
from node.events.tree import Frontier, ReadNode
from node.keys import key_id_of
from node.times import parse_rfc3339

FORMAT = b"1"
RESTORED = b"restored"
# Beside `log/`: what a restore was writing when it was interrupted.
PARTIAL_FOLDER = "log.partial"
# Beside `log/` while it is written anew: the copy before and after it is whole, and the old log until it is removed.
PARTIAL_COPY_FOLDER, COPY_FOLDER, OLD_FOLDER = "log.new.partial", "log.new", "log.old"
TABLES = ("meta", "keys", "headers", "items", "tree")
_Row = tuple[bytes, bytes]
# Salt ‖ content of a row, under the key of its place.
OpenItem = Callable[[lmdb.Transaction, bytes, bytes], bytes]
# LMDB has no empty keys.
_NO_ROW: _Row = (b"", b"")
OFFSET_KEY = struct.Struct(">Q")
ITEM_KEY = struct.Struct(">QI")
NODE_KEY = struct.Struct(">BQ")
_READ_BATCH = 256
# What one reading holds at most beside its last entry: an entry may hold MiBs, and a reader holds hundreds of entries.
_READ_BYTES = 16 << 20


class WrongOffset(Refusal):
    """Somebody else appended first: the log's size is not what the append expected."""

    code = "internal"


class UnknownFormat(Exception):
    """The folder holds a log of a format that this version does not read."""


class Head(Struct, frozen=True, kw_only=True):
    """Where a log stands: number of entries, root over them, leaf hash of the last one (32 zero bytes for none)."""

    size: int
    root: bytes
    leaf: bytes


def open_store(
    path: Path, *, is_readonly: bool = False, is_synced: bool = True, map_bytes: int = LOG_MAP_BYTES
) -> Store:
    """The environment of a log."""
    return Store(
        path,
        tables=TABLES,
        if_there=(ITEM_KEYS,),
        map_bytes=map_bytes,
        is_synced=is_synced,
        is_readonly=is_readonly,
    )


class Log:
    """The log in one LMDB environment. One process writes, through one thread."""

    def __init__(
        self,
        path: Path,
        *,
        is_readonly: bool = False,
        map_bytes: int = LOG_MAP_BYTES,
        file_keys: Sequence[FileKey] = (),
    ) -> None:
        """`file_keys` are those that an encrypted log may be under; a new one is encrypted under the first of them."""
        if not is_readonly and not (path / DATA_FILE).exists():
            _found(path, file_keys)
        self._store = open_store(path, is_readonly=is_readonly, map_bytes=map_bytes)
        self._check_format()
        with storage_errors(), self._store.begin() as txn:
            self.items = items_in(txn, self._store, file_keys)
        self._open_item = self.items.open
        self.refresh()
        # What the entries below a size erase: read once an item is missing, and on from there where others may erase too.
        self._erasures: tuple[int, Erasures] = (0, NOTHING_ERASED)
        self._announced = self.head()
        self.proven: Proven = {}
        self._followers: set[asyncio.Event] = set()

    @property
    def store(self) -> Store:
        """What it lies in, for checking it row by row (see log_check.py)."""
        return self._store

    def head(self) -> Head:
        """The log's durable head."""
        return Head(size=self._frontier.size, root=self._frontier.root(), leaf=self._leaf)

    def refresh(self) -> Head:
        """Read the durable head from disk: what an append of unknown outcome really left there."""
        with storage_errors(), self._store.begin() as txn:
            self._keys = set(_values(txn, self._store.table("keys")))
            size = _size(txn, self._store.table("headers"))
            self._frontier = Frontier.load(size, self._node_reader(txn))
            self._leaf = self._node_reader(txn)(0, size - 1) if size else bytes(32)
        self._erasing_size = max(1, size)
        return self.head()

    def restored_size(self) -> int | None:
        """How many entries the log was last restored with from a snapshot; None where it never was."""
        with storage_errors(), self._store.begin() as txn:
            row = txn.get(RESTORED, db=self._store.table("meta"))
        if row is None:
            return None
        if len(row) != OFFSET_KEY.size:
            raise LogDamaged("the table meta does not say with how many entries the log was restored")
        return OFFSET_KEY.unpack(row)[0]

    def announced(self) -> Head:
        """The head up to which the views stand: what checkpoints and proofs may speak of."""
        return self._announced

    def lay(self, entries: Sequence[Entry]) -> Laid | None:
        """What `append` writes of the items of an encrypted log, made beforehand and on another thread than its own, which would
        have to wait for the interpreter at every item; None for a log in clear.
        """
        if not isinstance(self.items, SealedItems):
            return None
        with storage_errors(), self._store.begin() as txn:
            return self.items.lay(txn, entries, item_key)

    def append(self, expected_offset: int, entries: Sequence[Entry], laid: Laid | None = None) -> Head:
        """Append entries at `expected_offset` in one durable transaction and return the new head.

        Raises WrongOffset where the log is not that long, StorageFull where there is no room; either way nothing is written.
        """
        if expected_offset != self._frontier.size:
            raise WrongOffset(f"the log has {self._frontier.size} entries, not {expected_offset}")
        laid = self.lay(entries) if laid is None else laid
        frontier = self._frontier.copy()
        with storage_errors(), self._store.begin(write=True) as txn:
            if _size(txn, self._store.table("headers")) != expected_offset:
                raise WrongOffset("another process has written to this log")
            closed = []
            for entry in entries:
                if entry.offset != frontier.size:
                    raise WrongOffset(f"the entry of offset {entry.offset} cannot stand at {frontier.size}")
                closed += frontier.append(entry.leaf)
            self._put(txn, entries, laid, closed)
        if laid is not None:
            self.items.took(laid)
        if any(isinstance(entry.event, EntityErased) for entry in entries):
            self._erasing_size = frontier.size
        self._keys.update(entry.public_key for entry in entries)
        self._frontier, self._leaf = frontier, entries[-1].leaf if entries else self._leaf
        return self.head()

    def require_writable(self) -> None:
        """Raise what keeps the disk from taking an append: tried with a commit, pages, sync and all, that changes nothing.

        After a failure of the disk, and on the thread of appends. What a failed append left in doubt is no part of the log:
        LMDB never writes over pages that the last commit names, and the next commit writes each of its own again.
        """
        self._store.require_in_place()
        self._store.mend()
        self._store.require_room()
        with storage_errors(), self._store.begin(write=True) as txn:
            txn.put(b"format", FORMAT, db=self._store.table("meta"))

    def announce(self, head: Head) -> None:
        """The views hold everything up to `head`: let followers and proofs see it. Call on the loop's thread."""
        self._announced = head
        for follower in self._followers:
            follower.set()

    def read(self, from_offset: int, limit: int, *, max_bytes: int = _READ_BYTES) -> list[Entry]:
        """Entries from an offset on, up to `limit` or until they come to `max_bytes`; at least one where there is one.

        Raises LogDamaged, naming the offset, where one does not hold.
        """
        with storage_errors(), self._store.begin() as txn:
            size = _size(txn, self._store.table("headers"))
            return self._open_run(txn, range(from_offset, min(size, from_offset + limit)), max_bytes)

    def read_back(
        self, first: int, end: int, *, types: Collection[str] | None, limit: int, max_reads: int
    ) -> tuple[list[Entry], int]:
        """Up to `limit` entries of [first, end), of these types or all, newest first, and the offset to go on before.

        Stops when it has read `max_reads` headers and items: what matches nowhere near must not cost the whole log.
        """
        entries: list[Entry] = []
        reads = 0
        with storage_errors(), self._store.begin() as txn:
            while first < end and len(entries) < limit and reads < max_reads:
                end -= 1
                header = open_header(self._stored(txn, end))
                reads += 1
                if types is None or header.type in types:
                    entries.append(self._open(txn, end))
                    reads += len(header.items)
        return entries, end

    def first_at(self, at_ms: int, size: int) -> int:
        """The first of `size` offsets whose entry is not dated before `at_ms`; `size` where all are."""
        with storage_errors(), self._store.begin() as txn:
            return bisect_left(range(size), at_ms, key=lambda n: parse_rfc3339(open_header(self._stored(txn, n)).at))

    def scan(self, from_offset: int, to_offset: int) -> Iterator[Entry]:
        """Entries of [from_offset, to_offset), read in batches so that no reader is held for long."""
        while from_offset < to_offset:
            batch = self.read(from_offset, min(_READ_BATCH, to_offset - from_offset))
            if not batch:
                return
            yield from batch
            from_offset += len(batch)

    def erase(
        self, places: Iterable[tuple[int, int]], entities: Iterable[str] = (), file_key: FileKey | None = None
    ) -> None:
        """Delete items, by offset and index, which an entry of this log says are erased, in one durable transaction; some may be
        gone already. And the keys of `entities`, about which nothing is left, where the log is encrypted; all other keys are
        wrapped under `file_key` from then on, so that the one of before opens nothing that is left of those.

        What was there may still lie in free pages of the file until it is compacted (see erasing.py). Raises LogDamaged, and
        deletes nothing, where an item is not said to be erased.
        """
        with storage_errors(), self._store.begin(write=True) as txn:
            for offset, index in places:
                if not self.is_erased(txn, offset, index):
                    raise LogDamaged("an item is to be deleted that no entry erases", offset=offset)
                txn.delete(ITEM_KEY.pack(offset, index), db=self._store.table("items"))
            if isinstance(self.items, SealedItems):
                self.items.erase(txn, entities)
                if file_key is not None:
                    self.items.rewrap(txn, file_key)
        if isinstance(self.items, SealedItems) and file_key is not None:
            self.items.use(file_key)

    def compact(self) -> None:
        """Write the log anew, so that its file holds nothing of what was deleted, and go on with that. Nobody appends meanwhile.

        Cut off anywhere, `finish_compaction` ends or undoes it. Where it fails, the log is what it was.
        """
        path = self._store.path
        copy, partial, old = (path.with_name(name) for name in (COPY_FOLDER, PARTIAL_COPY_FOLDER, OLD_FOLDER))
        with storage_errors():
            for left in (copy, partial, old):
                _remove(left)
            self._store.copy_to(partial)
            partial.rename(copy)
            self._store.exchange(copy, old)
            _remove(old)

    async def follow(self, from_offset: int, *, types: Collection[str]) -> AsyncIterator[Entry]:
        """Entries of these types from an offset on, and then each one as it is announced; others are not even opened."""
        news = asyncio.Event()
        self._followers.add(news)
        try:
            while True:
                news.clear()
                size = self._announced.size
                while from_offset < size:
                    end = min(size, from_offset + _READ_BATCH)
                    for entry in self._of_types(from_offset, end, types):
                        yield entry
                    from_offset = end
                    # A long stretch without a match must not hold up the loop.
                    await asyncio.sleep(0)
                if from_offset >= self._announced.size:
                    await news.wait()
        finally:
            self._followers.discard(news)

    async def grown(self, size: int) -> int:
        """The announced size, as soon as it is more than `size`."""
        news = asyncio.Event()
        self._followers.add(news)
        try:
            while self._announced.size <= size:
                news.clear()
                await news.wait()
            return self._announced.size
        finally:
            self._followers.discard(news)

    def rows(self, from_offset: int, to_offset: int, max_bytes: int) -> list[tuple[bytes, list[bytes | None]]]:
        """Entries of [from_offset, to_offset) as they lie here, with the rows of their items, until they come to `max_bytes`.

        An item that was erased is None. At least one entry. Nothing is checked but that they are there: raises LogDamaged where the
        first is not, ends before a later one.
        """
        headers = self._store.table("headers")
        rows: list[tuple[bytes, list[bytes | None]]] = []
        with storage_errors(), self._store.begin() as txn, txn.cursor(db=self._store.table("items")) as items:
            has_item = items.set_range(OFFSET_KEY.pack(from_offset))
            while from_offset < to_offset and max_bytes > 0:
                own: list[bytes | None] = []
                stored = txn.get(OFFSET_KEY.pack(from_offset), db=headers)
                if stored is None:
                    break
                while True:
                    if has_item and items.key() == ITEM_KEY.pack(from_offset, len(own)):
                        own.append(items.value())
                        has_item = items.next()
                    elif self.is_erased(txn, from_offset, len(own)):
                        own.append(None)
                    else:
                        break
                rows.append((stored, own))
                max_bytes -= len(stored) + sum(len(row) for row in own if row is not None)
                from_offset += 1
        if not rows:
            raise LogDamaged(f"offset {from_offset}: the entry is missing", offset=from_offset)
        return rows

    @property
    def key_count(self) -> int:
        """How many keys have signed entries here."""
        return len(self._keys)

    def opened_rows(self, offset: int, rows: Sequence[bytes | None]) -> list[bytes | None]:
        """Salt ‖ content of the rows of an entry's items, as `rows` gives them; None for an item that was erased."""
        with storage_errors(), self._store.begin() as txn:
            return [
                None if row is None else self._open_item(txn, ITEM_KEY.pack(offset, index), row)
                for index, row in enumerate(rows)
            ]

    def wrapped_keys(self, names: Iterable[bytes]) -> list[_Row]:
        """Rows of the key table of an encrypted log whose key is at hand, as they lie."""
        with storage_errors(), self._store.begin() as txn:
            return [(name, self.items.wrapped(txn, name)) for name in names]

    def file_key_id(self) -> bytes | None:
        """Of the file key that an encrypted log is under now; None for one in clear."""
        with storage_errors(), self._store.begin() as txn:
            return txn.get(AT_REST, db=self._store.table("meta"))

    def public_key(self, key_id: str) -> bytes:
        with storage_errors(), self._store.begin() as txn:
            return self._public_key(txn, key_id)

    def stored(self, offset: int) -> bytes:
        """Header ‖ signature of one entry, as signed."""
        with storage_errors(), self._store.begin() as txn:
            return self._stored(txn, offset)

    def item(self, offset: int, index: int) -> Item | None:
        """An item; None where it was erased."""
        with storage_errors(), self._store.begin() as txn:
            return self._item(txn, offset, index)

    def items_with(self, needle: bytes) -> Iterator[int]:
        """Offsets of the items that hold these bytes, in order. Reads every item: for offline use."""
        with storage_errors(), self._store.begin() as txn:
            for key, row in txn.cursor(db=self._store.table("items")):
                if len(key) != ITEM_KEY.size:
                    raise LogDamaged("the table of items has a key that is not an offset and an index")
                if needle in self._open_item(txn, key, row):
                    yield ITEM_KEY.unpack(key)[0]

    def all_stored(self) -> Iterator[bytes]:
        """Header ‖ signature of every entry, in order, from one snapshot: for offline use."""
        with storage_errors(), self._store.begin() as txn:
            for offset, (key, stored) in enumerate(txn.cursor(db=self._store.table("headers"))):
                if key != OFFSET_KEY.pack(offset):
                    raise LogDamaged(f"offset {offset}: the entry is missing", offset=offset)
                yield stored

    @contextmanager
    def tree(self) -> Iterator[ReadNode]:
        """A reader of tree hashes, all from one snapshot."""
        with storage_errors(), self._store.begin() as txn:
            yield self._node_reader(txn)

    def evidence(self) -> "Reading":
        """What facts can be held against, all from one snapshot."""
        return Reading(self, self._store)

    def close(self) -> None:
        self._store.close()

    def _of_types(self, start: int, end: int, types: Collection[str]) -> list[Entry]:
        with storage_errors(), self._store.begin() as txn:
            return [
                self._open(txn, offset)
                for offset in range(start, end)
                if open_header(self._stored(txn, offset)).type in types
            ]

    def _check_format(self) -> None:
        with storage_errors(), self._store.begin() as txn:
            found = txn.get(b"format", db=self._store.table("meta"))
        if found is None:
            raise UnknownFormat(f"{self._store.path} is no log of ours; `stigmem replay verify` tells what is damaged")
        if found != FORMAT:
            raise UnknownFormat(
                f"{self._store.path} holds a log of format {found!r}; this version reads {FORMAT.decode()}: "
                "open it with the version that wrote it"
            )

    def _put(
        self,
        txn: lmdb.Transaction,
        entries: Sequence[Entry],
        laid: Laid | None,
        closed: list[tuple[int, int, bytes]],
    ) -> None:
        # One call per table: each call gives up the interpreter, and beside a busy loop it is long in coming back.
        new_keys = {entry.public_key for entry in entries} - self._keys
        items = clear_rows(entries) if laid is None else laid.items
        if laid is not None:
            self._put_all(txn, ITEM_KEYS, laid.keys)
        self._put_all(txn, "keys", [(bytes.fromhex(key_id_of(key)), key) for key in new_keys])
        self._put_all(txn, "headers", [(OFFSET_KEY.pack(entry.offset), entry.stored) for entry in entries])
        self._put_all(txn, "items", items)
        self._put_all(txn, "tree", [(NODE_KEY.pack(level, index), node) for level, index, node in closed])

    def _put_all(self, txn: lmdb.Transaction, table: str, rows: list[tuple[bytes, bytes]]) -> None:
        with txn.cursor(db=self._store.table(table)) as cursor:
            consumed, _ = cursor.putmulti(rows)
        if consumed != len(rows):
            raise StorageFailed(f"{table}: {len(rows) - consumed} rows were not taken")

    def _open_run(self, txn: lmdb.Transaction, offsets: range, max_bytes: int) -> list[Entry]:
        """Consecutive entries, table by table in order; where anything is amiss one by one, so that its offset is named."""
        try:
            return _until(self._opened_run(txn, offsets), max_bytes)
        except LogDamaged:
            return _until((self._open(txn, offset) for offset in offsets), max_bytes)

    def _opened_run(self, txn: lmdb.Transaction, offsets: range) -> Iterator[Entry]:
        headers, items = self._store.table("headers"), self._store.table("items")
        public_keys: dict[str, bytes] = {}
        with txn.cursor(db=headers) as header_cursor, txn.cursor(db=items) as item_cursor:
            stored_rows = _rows_from(header_cursor, OFFSET_KEY.pack(offsets.start))
            item_rows = _rows_from(item_cursor, OFFSET_KEY.pack(offsets.start))
            for offset in offsets:
                key, stored = next(stored_rows, _NO_ROW)
                header = open_header(stored)
                if key != OFFSET_KEY.pack(offset) or header.offset != offset:
                    raise LogDamaged("an entry says another offset")
                if header.key_id not in public_keys:
                    public_keys[header.key_id] = self._public_key(txn, header.key_id)
                own = tuple([self._item_at(txn, offset, index, item_rows) for index in range(len(header.items))])
                yield entry_of(header, stored, own, public_keys[header.key_id])

    def _open(self, txn: lmdb.Transaction, offset: int) -> Entry:
        try:
            stored = self._stored(txn, offset)
            header = open_header(stored)
            if header.offset != offset:
                raise LogDamaged(f"the header says offset {header.offset}")
            items = tuple(self._item(txn, offset, index) for index in range(len(header.items)))
            return open_entry(stored, items, self._public_key(txn, header.key_id))
        except LogDamaged as damage:
            raise LogDamaged(f"offset {offset}: {damage.detail}", offset=offset) from damage

    def _stored(self, txn: lmdb.Transaction, offset: int) -> bytes:
        return _entry(txn, self._store.table("headers"), offset)

    def _item(self, txn: lmdb.Transaction, offset: int, index: int) -> Item | None:
        key = ITEM_KEY.pack(offset, index)
        row = txn.get(key, db=self._store.table("items"))
        if row is None and self.is_erased(txn, offset, index):
            return None
        return _item_of(self._open_item(txn, key, _there(row, index)))

    def _item_at(self, txn: lmdb.Transaction, offset: int, index: int, rows: Iterator[_Row]) -> Item:
        key, row = next(rows, _NO_ROW)
        if key != ITEM_KEY.pack(offset, index):
            raise LogDamaged(f"item {index} is missing")
        return _item_of(self._open_item(txn, key, row))

    def is_erased(self, txn: lmdb.Transaction, offset: int, index: int) -> bool:
        """Whether a later entry says that this item, which a transaction does not find, was erased."""
        return is_erased(self._read_erasures(txn), offset, index)

    def erasures(self, first: int) -> Erasures:
        """The items that entries from an offset on say are erased."""
        with storage_errors(), self._store.begin() as txn:
            return self._erasures_from(txn, first) if first else self._read_erasures(txn)

    def has_erasures(self) -> bool:
        """Whether anything that an entry commits to was erased."""
        with storage_errors(), self._store.begin() as txn:
            erased = self._read_erasures(txn).items()
            return any(min(items) < len(open_header(self._stored(txn, offset)).items) for offset, items in erased)

    def _read_erasures(self, txn: lmdb.Transaction) -> Erasures:
        size, known = self._erasures
        if size < self._erasing_size:
            # What is known stays as it is: others may be reading it. And a transaction older than the last append does not see all.
            more = self._erasures_from(txn, size)
            known = known | {offset: known.get(offset, set()) | items for offset, items in more.items()}
            self._erasures = (_size(txn, self._store.table("headers")), known)
        return known

    def _erasures_from(self, txn: lmdb.Transaction, first: int) -> Erasures:
        headers, items = self._store.table("headers"), self._store.table("items")
        found: Erasures = {}
        with txn.cursor(db=headers) as cursor:
            rows = cursor.iternext() if cursor.set_range(OFFSET_KEY.pack(first)) else ()
            for erasing in erasing_offsets(rows):
                key = ITEM_KEY.pack(erasing, PLACES_ITEM)
                committed = self._open_item(txn, key, _there(txn.get(key, db=items), PLACES_ITEM))
                add_erasures(found, _entry(txn, headers, erasing), committed)
        return found

    def _public_key(self, txn: lmdb.Transaction, key_id: str) -> bytes:
        try:
            key = txn.get(bytes.fromhex(key_id), db=self._store.table("keys"))
        except (ValueError, lmdb.BadValsizeError) as error:
            raise LogDamaged(f"key_id {key_id!r} is not the hash of a key") from error
        if key is None:
            raise LogDamaged(f"the public key {key_id} is missing")
        return key

    def _node_reader(self, txn: lmdb.Transaction) -> ReadNode:
        return partial(_tree_hash, txn, self._store.table("tree"))


def finish_compaction(path: Path) -> None:
    """Bring the log at `path` to a state that it can be opened in, where writing it anew was cut off; to be called before it is."""
    copy, old = path.with_name(COPY_FOLDER), path.with_name(OLD_FOLDER)
    with storage_errors():
        _remove(path.with_name(PARTIAL_COPY_FOLDER))
        if path.exists():
            # The copy never took its place: the log itself is whole, and may have gone on since.
            _remove(copy)
        elif copy.exists():
            copy.rename(path)
            sync(path.parent)
        _remove(old)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
        sync(folder.parent)


class Reading:
    """Evidence and its transaction, from the beginning of a `with` to its end. By hand: every fact that is read needs one."""

    __slots__ = ("_log", "_store", "_txn")

    def __init__(self, log: Log, store: Store) -> None:
        self._log, self._store = log, store

    def __enter__(self) -> Evidence:
        try:
            self._txn = self._store.begin()
        except (lmdb.Error, OSError) as error:
            raise refusal_of(error) from error
        return Evidence(self, self._log.proven)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._txn.abort()
        if isinstance(error, lmdb.Error | OSError):
            raise refusal_of(error) from error

    def entry(self, offset: int) -> bytes:
        """Header ‖ signature."""
        return _entry(self._txn, self._store.table("headers"), offset)

    def leaf(self, offset: int) -> bytes:
        return _tree_hash(self._txn, self._store.table("tree"), 0, offset)

    def committed(self, offset: int, index: int) -> bytes:
        """Salt ‖ content of an item. Raises NotReady for one that was erased since the views were asked."""
        key = ITEM_KEY.pack(offset, index)
        row = self._txn.get(key, db=self._store.table("items"))
        if row is None and self._log.is_erased(self._txn, offset, index):
            raise NotReady("something of this answer has just been erased: ask again")
        return self._log.items.open(self._txn, key, _there(row, index))


def _found(path: Path, file_keys: Sequence[FileKey]) -> None:
    """Make an empty log, which is there whole or not at all: a file whose making a power cut breaks off is no LMDB file."""
    draft = path / "new"
    make_folder(path)
    with storage_errors():
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        store = open_store(draft)
        try:
            if file_keys:
                store.make_table(ITEM_KEYS)
            with store.begin(write=True) as txn:
                txn.put(b"format", FORMAT, db=store.table("meta"))
                if file_keys:
                    SealedItems.found(txn, store, file_keys[0])
        finally:
            store.close()
        (draft / DATA_FILE).rename(path / DATA_FILE)
        shutil.rmtree(draft)
        sync(path)


def _entry(txn: lmdb.Transaction, headers: object, offset: int) -> bytes:
    stored = txn.get(OFFSET_KEY.pack(offset), db=headers)
    if stored is None:
        raise LogDamaged("the entry is missing")
    return stored


def _tree_hash(txn: lmdb.Transaction, tree: object, level: int, index: int) -> bytes:
    node = txn.get(NODE_KEY.pack(level, index), db=tree)
    if node is None:
        raise LogDamaged(f"the tree has no hash at level {level}, index {index}")
    return node


def _there(row: bytes | None, index: int) -> bytes:
    if row is None:
        raise LogDamaged(f"item {index} is missing")
    return row


def clear_rows(entries: Sequence[Entry]) -> list[_Row]:
    """The rows of their items in a log that is not encrypted."""
    return [
        (ITEM_KEY.pack(entry.offset, index), CLEAR + item.salt + item.content)
        for entry in entries
        for index, item in enumerate(entry.items)
        if item is not None
    ]


def item_key(offset: int, index: int) -> bytes:
    """Under what an item lies."""
    return ITEM_KEY.pack(offset, index)


def _item_of(committed: bytes) -> Item:
    return Item(committed[:SALT_BYTES], committed[SALT_BYTES:])


def _rows_from(cursor: lmdb.Cursor, key: bytes) -> Iterator[_Row]:
    return iter(cursor) if cursor.set_range(key) else iter(())


def _until(entries: Iterator[Entry], max_bytes: int) -> list[Entry]:
    """The first of the entries, until what is stored of them comes to so many bytes."""
    taken: list[Entry] = []
    for entry in entries:
        taken.append(entry)
        max_bytes -= entry.stored_bytes
        if max_bytes <= 0:
            break
    return taken


def _size(txn: lmdb.Transaction, headers: object) -> int:
    with txn.cursor(db=headers) as cursor:
        if not cursor.last():
            return 0
        if len(cursor.key()) != OFFSET_KEY.size:
            raise LogDamaged("the table of headers has a key that is not an offset")
        return OFFSET_KEY.unpack(cursor.key())[0] + 1


def _values(txn: lmdb.Transaction, table: object) -> list[bytes]:
    with txn.cursor(db=table) as cursor:
        return list(cursor.iternext(keys=False, values=True))
