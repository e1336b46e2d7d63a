"""The log checked entry by entry, from what is stored alone: chain, signatures, items, times, and the tree over it.

Always: entries are checked in order and the first bad offset is the one named; nothing behind it is looked at.
Always: memory does not grow with the log. Every row of the tables is accounted for: what belongs to no entry is damage.

Does not check the views, nor who may have done what.
"""

from collections.abc import Iterator
from pathlib import Path

import lmdb

from node.canonical import b64url_encode
from node.clock import parse_hlc
from node.errors import LogDamaged
from node.events.entry import FIRST_PREV, Entry, Header, Item, is_signed_by, open_entry, open_header
from node.events.identity import NodeCreated
from node.events.log import FORMAT, ITEM_KEY, NODE_KEY, OFFSET_KEY, TABLES
from node.events.store import LOG_MAP_BYTES, Store, storage_errors
from node.events.tree import Frontier
from node.keys import key_id_of

_CLEAR = b"\x00"


class Damaged(Exception):
    """What is wrong, in words, at the first offset where anything is; `offset` None where none can be told."""

    def __init__(self, offset: int | None, words: str) -> None:
        super().__init__(words)
        self.offset, self.words = offset, words


class NotALog(Exception):
    """There is no log here that this version reads; the message is one line for the operator."""


def damage_of(refusal: LogDamaged) -> Damaged:
    """The damage that the node's own reader met."""
    offset = refusal.data.get("offset")
    if not isinstance(offset, int):
        return Damaged(None, refusal.detail)
    return Damaged(offset, refusal.detail.removeprefix(f"offset {offset}: "))


def require_format(log_dir: Path) -> None:
    """Raise NotALog where the LMDB file in `log_dir` is not a log of our format."""
    try:
        with storage_errors():
            store = Store(log_dir, tables=("meta",), map_bytes=LOG_MAP_BYTES, is_readonly=True)
    except LogDamaged as error:
        raise NotALog(f"{log_dir} holds no log: {error.detail}") from error
    try:
        with store.begin() as txn:
            found = txn.get(b"format", db=store.table("meta"))
    finally:
        store.close()
    if found != FORMAT:
        raise NotALog(f"{log_dir} holds a log of format {found!r}; this version reads {FORMAT.decode()}")


def checked_sizes(log_dir: Path) -> Iterator[Frontier]:
    """Check the log in `log_dir` and yield the tree after each sound entry. Raises Damaged at the first that is not.

    The same Frontier every time: read it before going on.
    """
    with storage_errors():
        store = Store(log_dir, tables=TABLES, map_bytes=LOG_MAP_BYTES, is_readonly=True)
        try:
            with store.begin() as txn:
                yield from _Walk(store, txn).entries()
        finally:
            store.close()


class _Walk:
    def __init__(self, store: Store, txn: lmdb.Transaction) -> None:
        self._txn = txn
        self._db = {name: store.table(name) for name in TABLES}
        self._items = txn.cursor(db=self._db["items"])
        self._has_item = self._items.first()
        self._frontier = Frontier(0, [])
        self._tree_rows = 0
        self._leaf = FIRST_PREV
        self._hlc: tuple[int, int] | None = None
        self._at_ms: int | None = None
        self._node_key: bytes | None = None

    def entries(self) -> Iterator[Frontier]:
        for key, stored in self._txn.cursor(db=self._db["headers"]):
            offset = self._frontier.size
            try:
                self._check(offset, key, stored)
            except LogDamaged as damage:
                raise Damaged(offset, damage.detail) from damage
            yield self._frontier
        self._check_nothing_is_left()

    def _check(self, offset: int, key: bytes, stored: bytes) -> None:
        if key != OFFSET_KEY.pack(offset):
            raise LogDamaged("the entry is missing")
        header = open_header(stored)
        self._check_place(header, offset)
        public_key = self._signing_key(header)
        if not is_signed_by(stored, public_key):
            raise LogDamaged("the signature does not verify")
        entry = open_entry(stored, self._take_items(offset, len(header.items)), public_key)
        self._check_whose(entry)
        self._check_times(entry)
        self._check_tree(entry)

    def _check_place(self, header: Header, offset: int) -> None:
        if header.offset != offset:
            raise LogDamaged(f"the header says offset {header.offset}")
        if header.prev != self._leaf.hex():
            raise LogDamaged("prev is not the leaf hash of the entry before")

    def _signing_key(self, header: Header) -> bytes:
        try:
            public_key = self._txn.get(bytes.fromhex(header.key_id), db=self._db["keys"])
        except (ValueError, lmdb.BadValsizeError) as error:
            raise LogDamaged("key_id is not the hash of a key") from error
        if public_key is None:
            raise LogDamaged(f"the public key {header.key_id} is missing")
        if key_id_of(public_key) != header.key_id:
            raise LogDamaged(f"the public key stored as {header.key_id} is another one")
        return public_key

    def _take_items(self, offset: int, count: int) -> tuple[Item, ...]:
        items = []
        while self._has_item and self._items.key()[:8] <= OFFSET_KEY.pack(offset):
            if self._items.key() != ITEM_KEY.pack(offset, len(items)):
                raise LogDamaged(f"item {len(items)} is missing, or a row of items belongs to no entry")
            row = self._items.value()
            if row[:1] != _CLEAR:
                raise LogDamaged(f"item {len(items)} has a form that this version does not read")
            items.append(Item(row[1:17], row[17:]))
            self._has_item = self._items.next()
        if len(items) != count:
            raise LogDamaged(f"{len(items)} items are stored, the header commits to {count}")
        return tuple(items)

    def _check_whose(self, entry: Entry) -> None:
        if self._node_key is None:
            if not isinstance(entry.event, NodeCreated):
                raise LogDamaged(f"the first entry is {entry.type}, not node.created.1")
            if entry.event.public_key != b64url_encode(entry.public_key):
                raise LogDamaged("the first entry names another key than the one that signed it")
            self._node_key = entry.public_key
        # One key per log until keys can be rotated: anybody's signature would verify under a key they added themselves.
        if entry.public_key != self._node_key:
            raise LogDamaged("the entry is signed by a key that is not this node's")

    def _check_times(self, entry: Entry) -> None:
        try:
            hlc = parse_hlc(entry.hlc)
        except ValueError as error:
            raise LogDamaged(f"hlc {entry.hlc!r} is no hybrid logical clock") from error
        if self._hlc is not None and hlc <= self._hlc:
            raise LogDamaged("hlc does not increase")
        if self._at_ms is not None and entry.at_ms < self._at_ms:
            raise LogDamaged("at goes back")
        self._hlc, self._at_ms = hlc, entry.at_ms

    def _check_tree(self, entry: Entry) -> None:
        for level, index, node in self._frontier.append(entry.leaf):
            if self._txn.get(NODE_KEY.pack(level, index), db=self._db["tree"]) != node:
                raise LogDamaged(f"the tree's hash at level {level}, index {index} is not that of its entries")
            self._tree_rows += 1
        self._leaf = entry.leaf

    def _check_nothing_is_left(self) -> None:
        size = self._frontier.size
        if self._has_item:
            raise Damaged(size, "the entry is missing, its items are there")
        if self._txn.stat(self._db["tree"])["entries"] != self._tree_rows:
            raise Damaged(size, "the entry is missing, the tree has its hash")
