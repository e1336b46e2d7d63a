"""A log checked stretch by stretch, from what is stored alone: chain, signatures, items, times, and the tree over it.

The one checker there is: the offline commands have it look at a copy, and the node at its own log (`node/log_watch.py`).

Always: of a stretch the first bad offset is the one named, whatever else is wrong behind it; stretches may be checked in
any order and by several processes, because each takes from before it what is stored there, and checks only what is in it.
Always: memory does not grow with the log. Every row of the tables is accounted for: what belongs to no entry is damage.

Of an encrypted log without its key, chain, signatures, times and tree are checked, and that the items are there.
Does not check the views, nor who may have done what.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice

import lmdb
from msgspec import Struct

from node.canonical import b64url_encode
from node.errors import LogDamaged
from node.events.entry import FIRST_PREV, Header, is_signed_by, open_header, read_items
from node.events.erasures import PLACES_ITEM, Erasures, add_erasures, erasing_offsets, is_erased
from node.events.event import Event, type_of
from node.events.identity import NodeCreated, NodeRestored
from node.events.item_keys import AT_REST, ITEM_KEYS, Items, SealedItems
from node.events.item_rows import Row, items_of, out_of_place, require_rows, times_of
from node.events.log import ITEM_KEY, NODE_KEY, OFFSET_KEY, RESTORED, TABLES
from node.events.own_keys import ROTATED, OwnKeys, find_own_keys, keys_that_signed
from node.events.signed_inside import Evidence, KnownKeys
from node.events.store import Store, storage_errors
from node.events.tree import inner_hash, leaf_hash, root_at
from node.keys import key_id_of


class Damage(Struct, frozen=True):
    """What is wrong, in words, at the first offset where anything is; `offset` None where none can be told."""

    offset: int | None
    words: str


class Checked(Struct, frozen=True):
    """What became of a stretch: how many items its entries have (0 where they were not looked at), and the first damage."""

    items: int
    damage: Damage | None


class Stretch(Struct):
    """Consecutive entries as far as they hold: each check cuts off what it finds bad and all behind it.

    Of each, what is stored and its hash; once they were read, its header, and its items, each salt ‖ content or None where it was
    erased.
    """

    first: int
    stored: list[bytes]
    leaves: list[bytes]
    headers: list[Header]
    committed: list[list[bytes | None]]
    items: int = 0
    damage: Damage | None = None

    @property
    def end(self) -> int:
        return self.first + len(self.stored)

    def cut(self, index: int, words: str) -> None:
        self.end_before(index)
        self.damage = Damage(self.first + index, words)

    def end_before(self, index: int) -> None:
        """Leave out all from this entry on, with whatever was found there."""
        for rows in (self.stored, self.leaves, self.headers, self.committed):
            del rows[index:]
        self.damage = None


class LogCheck:
    """A look at the log in `store`, each question from a snapshot of its own. What is asked about must not change meanwhile:
    of a log that is appended to, ask for entries that it has.
    """

    def __init__(self, store: Store, items: Items) -> None:
        self._store, self._items = store, items
        self._db = {name: store.table(name) for name in TABLES}
        self._txn: lmdb.Transaction
        self._own: OwnKeys | None = None
        self._named: dict[str, bytes] = {}
        self._evidence: Evidence | None = None
        # Of so many entries: read once an item is missing, and on from there when the log has grown since.
        self._erasures: Erasures = {}
        self._erasures_of = 0

    @property
    def size(self) -> int:
        """How many rows the table of entries has."""
        with self._reading():
            return self._count("headers")

    def check(self, first: int, end: int) -> Checked:
        """Check the entries of [first, end) whole."""
        return self._checked(first, end, self._check_whole)

    def check_own(self, first: int, end: int) -> Checked:
        """Check the entries of [first, end), but not what is signed inside their items: keys for that stand anywhere before."""
        return self._checked(first, end, self._check_own)

    def check_quickly(self, first: int, end: int) -> Checked:
        """Check chain and tree over [first, end) alone. Where `end` is the log's size, the last entry's signature too:
        through the chain it is one over every entry before it.
        """
        return self._checked(first, end, self._check_last_signature)

    def read(self, first: int, end: int, max_bytes: int) -> Stretch:
        """The entries of [first, end) up to which their items come to `max_bytes`, at least one, as far as they hold: as
        `check_quickly` looks at them, and items against commitments.
        """
        with self._reading():
            try:
                self._own_keys(end)
            except LogDamaged as damage:
                return Stretch(0, [], [], [], [], damage=Damage(0, damage.detail))
            stretch = self._read(first, end)
            self._check_chain(stretch)
            self._check_last_signature(stretch)
            self._open_headers(stretch)
            self._check_keys(stretch)
            self._take_items(stretch, max_bytes)
            self._check_tree(stretch)
        return stretch

    def key_of(self, header: Header) -> bytes:
        """The public key that an entry names. Raises LogDamaged where there is none, or another one in its place."""
        key = self._named.get(header.key_id)
        if key is None:
            with self._reading():
                key = self._named[header.key_id] = self._key_of(header)
        return key

    def check_rest(self, items: int | None) -> Damage | None:
        """Whether the tables hold a row that belongs to no entry, after all entries were found to hold; `items` is how many
        items those have, None where they were not looked at.
        """
        with self._reading():
            size = self._count("headers")
            words = next(self._left_over(size, items), None)
        return None if words is None else Damage(size, words)

    def root_at(self, size: int) -> bytes:
        """The root over the first `size` entries, by the tree as it is stored."""
        with self._reading():
            return self._root_at(size)

    def close(self) -> None:
        self._store.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with storage_errors(), self._store.begin() as self._txn:
            # The file may have been exchanged since.
            self._db = {name: self._store.table(name) for name in TABLES}
            yield

    def _checked(self, first: int, end: int, look_into: Callable[[Stretch], None]) -> Checked:
        with self._reading():
            try:
                self._own_keys(end)
            except LogDamaged as damage:
                return Checked(0, Damage(0, damage.detail))
            stretch = self._read(first, end)
            self._check_chain(stretch)
            look_into(stretch)
            self._check_tree(stretch)
        return Checked(stretch.items, stretch.damage)

    def _check_whole(self, stretch: Stretch) -> None:
        self._check_entries(stretch, self._evidence)

    def _check_own(self, stretch: Stretch) -> None:
        self._check_entries(stretch, None)

    def _check_entries(self, stretch: Stretch, evidence: Evidence | None) -> None:
        self._open_headers(stretch)
        self._check_signatures(stretch)
        self._check_items(stretch, evidence)
        self._check_times(stretch)

    def _root_at(self, size: int) -> bytes:
        return root_at(size, self._node)

    def _own_keys(self, end: int) -> OwnKeys:
        """The keys of this log's entries up to `end`; read anew where it has grown, as a key may have been rotated since."""
        if self._own is None or self._own.size < end:
            self._require_birth()
            if not self._items.is_readable:
                stored = (stored for _, stored in self._rows("headers", b""))
                self._own = keys_that_signed(map(open_header, stored), self._key_of)
                return self._own
            self._own = find_own_keys(self._count("headers"), self._count("keys"), self._stored, self._event_at)
            self._evidence = Evidence(KnownKeys(self._own, self._events), self._root_at)
        return self._own

    def _require_birth(self) -> None:
        """Check the first entry by itself: whose log this is decides what every other signature must be."""
        stored = self._txn.get(OFFSET_KEY.pack(0), db=self._db["headers"])
        if stored is None:
            raise LogDamaged("the entry is missing")
        header = open_header(stored)
        public_key = self._key_of(header)
        if not is_signed_by(stored, public_key):
            raise LogDamaged("the signature does not verify")
        if not self._items.is_readable:
            return  # whose it is stands in an item
        event = self._event_of(0, header)
        if not isinstance(event, NodeCreated):
            raise LogDamaged(f"the first entry is {header.type}, not node.created.1")
        if event.public_key != b64url_encode(public_key):
            raise LogDamaged("the first entry names another key than the one that signed it")

    def _stored(self, offset: int) -> bytes:
        stored = self._txn.get(OFFSET_KEY.pack(offset), db=self._db["headers"])
        if stored is None:
            raise LogDamaged("the entry is missing")
        return stored

    def _event_at(self, offset: int) -> Event:
        return self._event_of(offset, open_header(self._stored(offset)))

    def _key_of(self, header: Header) -> bytes:
        try:
            key_id = bytes.fromhex(header.key_id)
        except ValueError as error:
            raise LogDamaged("key_id is not the hash of a key") from error
        public_key = self._txn.get(key_id, db=self._db["keys"]) if len(key_id) == 32 else None
        if public_key is None:
            raise LogDamaged(f"the public key {header.key_id} is missing")
        if key_id_of(public_key) != header.key_id:
            raise LogDamaged(f"the public key stored as {header.key_id} is another one")
        return public_key

    # What is stored

    def _read(self, first: int, end: int) -> Stretch:
        stretch = Stretch(first, [], [], [], [])
        rows = list(islice(self._rows("headers", OFFSET_KEY.pack(first) if first else b""), end - first))
        stretch.stored = [stored for _, stored in rows]
        stretch.leaves = [leaf_hash(stored) for stored in stretch.stored]
        keys = [OFFSET_KEY.pack(offset) for offset in range(first, end)]
        if [key for key, _ in rows] != keys:
            found = [key == row[0] for key, row in zip(keys, rows, strict=False)]
            stretch.cut([*found, False].index(False), "the entry is missing")
        return stretch

    def _rows(self, table: str, start: bytes) -> Iterator[Row]:
        """Rows from a key on; from an empty one, all of them."""
        cursor = self._txn.cursor(db=self._db[table])
        found = cursor.set_range(start) if start else cursor.first()
        return iter(cursor) if found else iter(())

    def _count(self, table: str) -> int:
        return self._txn.stat(self._db[table])["entries"]

    def _node(self, level: int, index: int) -> bytes:
        node = self._txn.get(NODE_KEY.pack(level, index), db=self._db["tree"])
        if node is None:
            raise LogDamaged(f"the tree has no hash at level {level}, index {index}")
        return node

    # The checks of a stretch, in the order in which they name what is wrong with one entry

    def _check_chain(self, stretch: Stretch) -> None:
        prev = self._leaf_before(stretch.first)
        for index, (stored, leaf) in enumerate(zip(stretch.stored, stretch.leaves, strict=True)):
            offset = stretch.first + index
            # The start of the one byte form that a header has: cheaper than to decode it, and stricter.
            if not stored.startswith(b'{"v":1,"offset":%d,"prev":"%s","hlc":"' % (offset, prev.hex().encode())):
                stretch.cut(index, out_of_place(stored, offset, prev))
                return
            prev = leaf

    def _leaf_before(self, offset: int) -> bytes:
        return FIRST_PREV if offset == 0 else leaf_hash(self._before(offset))

    def _before(self, offset: int) -> bytes:
        """The entry before one as it is stored; a missing one is named with the stretch before."""
        return self._txn.get(OFFSET_KEY.pack(offset - 1), db=self._db["headers"]) or b""

    def _check_last_signature(self, stretch: Stretch) -> None:
        if not stretch.stored or stretch.first + len(stretch.stored) != self._count("headers"):
            return
        try:
            _require_signed(open_header(stretch.stored[-1]), stretch.stored[-1], self._own_keys(stretch.end))
        except LogDamaged as damage:
            stretch.cut(len(stretch.stored) - 1, damage.detail)

    def _open_headers(self, stretch: Stretch) -> None:
        for index, stored in enumerate(stretch.stored):
            try:
                stretch.headers.append(open_header(stored))
            except LogDamaged as damage:
                stretch.cut(index, damage.detail)
                return

    def _check_keys(self, stretch: Stretch) -> None:
        """That the keys which entries name are there."""
        known: set[str] = set()
        for index, header in enumerate(stretch.headers):
            try:
                if header.key_id not in known:
                    self._key_of(header)
                    known.add(header.key_id)
            except LogDamaged as damage:
                stretch.cut(index, damage.detail)
                return

    def _check_signatures(self, stretch: Stretch) -> None:
        own = self._own_keys(stretch.end)
        is_rotated = stretch.first > 0 and ROTATED in self._before(stretch.first)
        for index, (header, stored) in enumerate(zip(stretch.headers, stretch.stored, strict=True)):
            try:
                if header.key_id not in own.key_ids:
                    self._key_of(header)
                _require_signed(header, stored, own)
                if is_rotated and own.place(header.offset) == own.place(header.offset - 1):
                    raise LogDamaged("the entry is signed by a key that was rotated away")
            except LogDamaged as damage:
                stretch.cut(index, damage.detail)
                return
            is_rotated = ROTATED in stored

    def _check_items(self, stretch: Stretch, evidence: Evidence | None) -> None:
        """Items against commitments, and by `evidence` what is signed inside them; of items that cannot be read, that they are
        there.
        """
        checked = 0
        try:
            if not self._items.is_readable:
                for header in stretch.headers:
                    stretch.items += require_rows(header, self._item_rows(header.offset), self._is_erased)
                    checked += 1
                return
            for header, items in zip(stretch.headers, self._items_of(stretch), strict=True):
                _, event = read_items(header, items)
                if evidence is not None:
                    evidence.check(header.offset, event)
                stretch.items += sum(item is not None for item in items)
                checked += 1
        except LogDamaged as damage:
            stretch.cut(checked, damage.detail)

    def _take_items(self, stretch: Stretch, max_bytes: int) -> None:
        """Items against commitments, and kept."""
        try:
            for items in self._items_of(stretch):
                stretch.committed.append(items)
                max_bytes -= sum(len(item) for item in items if item is not None)
                if max_bytes <= 0:
                    stretch.end_before(len(stretch.committed))
                    return
        except LogDamaged as damage:
            stretch.cut(len(stretch.committed), damage.detail)

    def _items_of(self, stretch: Stretch) -> Iterator[list[bytes]]:
        return items_of(
            stretch.headers, self._item_rows(stretch.first), partial(self._items.open, self._txn), self._is_erased
        )

    def _item_rows(self, offset: int) -> Iterator[Row]:
        return self._rows("items", OFFSET_KEY.pack(offset) if offset else b"")

    def _is_erased(self, offset: int, index: int) -> bool:
        """Whether a later entry says that this item, which is missing, was erased."""
        size = self._count("headers")
        if size != self._erasures_of:
            # Where entries are missing the last ones stand behind their number, and some are read again.
            for erasing in list(erasing_offsets(self._rows("headers", OFFSET_KEY.pack(self._erasures_of)))):
                self._add_erasures(erasing)
            self._erasures_of = size
        return is_erased(self._erasures, offset, index)

    def _add_erasures(self, erasing: int) -> None:
        key = ITEM_KEY.pack(erasing, PLACES_ITEM)
        row = self._txn.get(key, db=self._db["items"])
        stored = self._txn.get(OFFSET_KEY.pack(erasing), db=self._db["headers"])
        if row is None or stored is None:
            return  # it erases nothing that can be told; that it is damaged is said when it is looked at itself
        try:
            add_erasures(self._erasures, stored, self._items.open(self._txn, key, row))
        except LogDamaged:
            return

    def _check_times(self, stretch: Stretch) -> None:
        hlc, at_ms = self._times_before(stretch.first)
        for index, header in enumerate(stretch.headers):
            try:
                now, now_ms = times_of(header)
                if now <= hlc:
                    raise LogDamaged("hlc does not increase")
                if now_ms < at_ms:
                    raise LogDamaged("at goes back")
            except LogDamaged as damage:
                stretch.cut(index, damage.detail)
                return
            hlc, at_ms = now, now_ms

    def _times_before(self, offset: int) -> tuple[tuple[int, int], int]:
        before = (-1, -1), -(1 << 63)
        if offset == 0:
            return before
        try:
            return times_of(open_header(self._txn.get(OFFSET_KEY.pack(offset - 1), db=self._db["headers"]) or b""))
        except LogDamaged:
            # The stretch before names it.
            return before

    def _check_tree(self, stretch: Stretch) -> None:
        """Every hash that an entry of the stretch closes: level by level, each from the two below it."""
        level, start, nodes = 0, stretch.first, stretch.leaves
        bad: tuple[int, str] | None = None
        while nodes:
            index = self._first_other(level, start, nodes)
            if index is not None:
                closed_by = ((index + 1) << level) - 1
                if bad is None or closed_by < bad[0]:
                    bad = closed_by, f"the tree's hash at level {level}, index {index} is not that of its entries"
            if start & 1:
                # Closed before this stretch: what is stored there is checked with the stretch that closed it.
                nodes = [self._txn.get(NODE_KEY.pack(level, start - 1), db=self._db["tree"]) or b"", *nodes]
                start -= 1
            nodes = [inner_hash(left, right) for left, right in zip(nodes[::2], nodes[1::2], strict=False)]
            level, start = level + 1, start >> 1
        if bad is not None:
            stretch.cut(bad[0] - stretch.first, bad[1])

    def _first_other(self, level: int, start: int, nodes: list[bytes]) -> int | None:
        """The first index from `start` on whose stored hash is not this one; None where all are."""
        stored = list(islice(self._rows("tree", NODE_KEY.pack(level, start)), len(nodes)))
        expected = [(NODE_KEY.pack(level, start + number), node) for number, node in enumerate(nodes)]
        if stored == expected:
            return None
        return start + next(n for n, row in enumerate(expected) if n >= len(stored) or stored[n] != row)

    # The tables as a whole

    def _left_over(self, n: int, items: int | None) -> Iterator[str]:
        if next(self._rows("items", OFFSET_KEY.pack(n)), None) is not None:
            yield "the entry is missing, its items are there"
        if items is not None and self._count("items") != items:
            yield "the table of items has rows that belong to no entry"
        if self._txn.get(NODE_KEY.pack(0, n), db=self._db["tree"]) is not None:
            yield "the entry is missing, the tree has its hash"
        # n leaves, and one inner hash for each of the n - popcount(n) times that two of a size met.
        if self._count("tree") != 2 * n - n.bit_count():
            yield "the tree has rows that belong to no entry"
        own = list(map(bytes.fromhex, self._own_keys(n).key_ids)) if n else []
        yield from (
            f"the table of keys has a row that belongs to no entry: {key.hex()}"
            for key, _ in self._rows("keys", b"")
            if key not in own
        )
        yield from (
            f"the table meta has a row that no log has: {key!r}"
            for key, _ in self._rows("meta", b"")
            if key not in (b"format", RESTORED, AT_REST)
        )
        yield from self._key_table_problems()
        if not self._knows_of_its_restore(n):
            yield "the table meta tells of a restore that the log does not"
        tables = {name.encode() for name in (*TABLES, *([ITEM_KEYS] if self._is_encrypted() else []))}
        yield from (f"a log has no table {name!r}" for name, _ in self._txn.cursor() if name not in tables)

    def _is_encrypted(self) -> bool:
        return self._txn.get(AT_REST, db=self._db["meta"]) is not None

    def _key_table_problems(self) -> Iterator[str]:
        if isinstance(self._items, SealedItems):
            try:
                self._items.check(self._txn)
            except LogDamaged as damage:
                yield damage.detail

    def _knows_of_its_restore(self, size: int) -> bool:
        """Whether the entry behind a restore says so; a log that no node has opened since says nothing yet."""
        row = self._txn.get(RESTORED, db=self._db["meta"])
        if row is None:
            return True
        behind = self._txn.get(row, db=self._db["headers"]) if len(row) == OFFSET_KEY.size else None
        is_said = behind is not None and open_header(behind).type == type_of(NodeRestored)
        return is_said or row == OFFSET_KEY.pack(size)

    # Reading for others

    def _events(self, first: int, end: int, types: frozenset[str]) -> Iterator[tuple[int, Event]]:
        """Events of these types in [first, end), as far as they can be read: what cannot is named by its own stretch."""
        marks = [f'"type":"{name}"'.encode() for name in types]
        for key, stored in islice(self._rows("headers", OFFSET_KEY.pack(first)), end - first):
            if any(mark in stored for mark in marks):
                try:
                    yield OFFSET_KEY.unpack(key)[0], self._event_of(OFFSET_KEY.unpack(key)[0], open_header(stored))
                except LogDamaged:
                    continue

    def _event_of(self, offset: int, header: Header) -> Event:
        items = items_of((header,), self._item_rows(offset), partial(self._items.open, self._txn), self._is_erased)
        return read_items(header, next(items))[1]


def _require_signed(header: Header, stored: bytes, own: OwnKeys) -> None:
    """The entry must be by the key of its place: a key that was rotated away before it signs nothing any more."""
    place = own.place(header.offset)
    if header.key_id != own.key_ids[place]:
        is_former = header.key_id in own.key_ids
        words = "not current there" if is_former else "not this node's"
        raise LogDamaged(f"the entry is signed by a key that is {words}")
    if not is_signed_by(stored, own.chain[place].public_key):
        raise LogDamaged("the signature does not verify")
