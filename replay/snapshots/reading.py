"""The log as a snapshot takes it: from one offset to the head that stood when reading began, checked entry by entry.

Always: transactions are short. What an append-only log held then it holds still, so they need not be one.
Always: an entry is given on only once its place, its commitments and its link to the one before hold; the last one only where
the root over all is the log's own.

Does not check signatures: that is for whoever takes the snapshot's word (see restore.py).
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from node.errors import LogDamaged
from node.events.checkpoint import origin_of
from node.events.entry import is_signed_by, open_header
from node.events.event import type_of
from node.events.identity import NodeRestored
from node.events.item_keys import SealedItems, name_in
from node.events.key_file import KEY_FILE, NEXT_KEY_FILE, id_of
from node.events.log import Log
from node.events.own_keys import own_keys_of
from node.events.tree import Frontier, leaf_hash, root_at
from node.keys import key_id_of
from replay.chain import Damaged, damage_of
from replay.snapshots.manifest import Head, Manifest, NotASnapshot
from replay.snapshots.rows import KeyRow, Rows

_READ_ENTRIES, _READ_BYTES = 256, 1 << 20
_RESTORED = type_of(NodeRestored)


class Reading:
    """One reading of a log: whose it is, from `first` to `head`, and what it continues. Raises NotASnapshot, LogDamaged."""

    def __init__(self, log: Log, since: int | Manifest) -> None:
        self._log = log
        self.head = log.head()
        self.first = since if isinstance(since, int) else since.size
        if self.first >= self.head.size:
            raise NotASnapshot(f"the log has {self.head.size} entries, none at offset {self.first} or behind")
        keys = own_keys_of(log)
        self.node_id, self.log_key, self.current_key = (
            keys.node_id,
            keys.chain[0].public_key,
            keys.at(self.head.size - 1),
        )
        with log.tree() as read:
            self._frontier = Frontier.load(self.first, read)
            root, self._leaf = root_at(self.first, read), read(0, self.first - 1) if self.first else bytes(32)
        self.continues = Head(size=self.first, root=root.hex()) if self.first else None
        self._key_ids: set[str] = set()
        self._given: set[bytes] = set()
        self._file_key_id = log.file_key_id()
        self._restored_at: int | None = None
        if isinstance(since, Manifest):
            self._require_same_log(since)

    def rows(self) -> Iterator[Rows]:
        """The entries in order. Raises Damaged at the first that does not hold."""
        while (offset := self._frontier.size) < self.head.size:
            for stored, items in self._batch(offset):
                self._check(stored, items)
                yield stored, items

    def origin(self) -> str:
        """The log's name at its head, once all rows were read: that of its last restore, where there was one."""
        offset = self._restored_before() if self._restored_at is None else self._restored_at
        if offset is None:
            return origin_of(self.node_id)
        event = self._log.read(offset, 1)[0].event
        if not isinstance(event, NodeRestored):
            raise Damaged(offset, "the header's type is not the entry's")
        return event.origin

    @property
    def keys(self) -> list[bytes]:
        """The public keys that the entries were signed with, as far as they were read."""
        keys = [self._log.public_key(key_id) for key_id in sorted(self._key_ids)]
        if [key_id_of(key) for key in keys] != sorted(self._key_ids):
            raise Damaged(None, "a public key is stored under another one's name")
        return keys

    @property
    def mark(self) -> str | None:
        """Of an encrypted log, what tells its keys from those that it had before it was encrypted anew."""
        return self._log.items.mark if isinstance(self._log.items, SealedItems) else None

    def fresh_keys(self, items: list[bytes | None]) -> list[KeyRow]:
        """The wrapped keys of an entry's items, of an encrypted log, that were not given before."""
        names = {name for row in items if row is not None and (name := name_in(row)) is not None} - self._given
        self._given |= names
        return self._log.wrapped_keys(sorted(names))

    def key_file(self, data_dir: Path) -> bytes:
        """The key file that all keys given are wrapped under. Raises NotASnapshot where it was changed meanwhile."""
        held = self._log.file_key_id()
        for name in (KEY_FILE, NEXT_KEY_FILE):
            path = data_dir / name
            if path.exists() and held == self._file_key_id and id_of(path) == held:
                return path.read_bytes()
        raise NotASnapshot("the log's keys were changed while it was read: try again")

    def _batch(self, offset: int) -> list[Rows]:
        try:
            return self._log.rows(offset, min(self.head.size, offset + _READ_ENTRIES), _READ_BYTES)
        except LogDamaged:
            # A page that cannot be read hides which entry lies on it: the first that cannot be read alone does.
            return self._alone(offset)

    def _alone(self, offset: int) -> list[Rows]:
        try:
            return self._log.rows(offset, offset + 1, _READ_BYTES)
        except LogDamaged as damage:
            raise Damaged(offset, damage_of(damage).words) from damage

    def _check(self, stored: bytes, items: list[bytes | None]) -> None:
        offset = self._frontier.size
        try:
            header = open_header(stored)
        except LogDamaged as damage:
            raise Damaged(offset, damage.detail) from damage
        if header.offset != offset or header.prev != self._leaf.hex():
            self._require_leaf_before(offset)
            raise Damaged(offset, "the entry does not follow from the one before")
        try:
            committed = self._log.opened_rows(offset, items)
        except LogDamaged as damage:
            raise Damaged(offset, damage.detail) from damage
        if len(items) != len(header.items) or any(
            item is not None and sha256(item).hexdigest() != said
            for item, said in zip(committed, header.items, strict=True)
        ):
            raise Damaged(offset, "the items are not those that the header commits to")
        self._leaf = leaf_hash(stored)
        self._frontier.append(self._leaf)
        self._key_ids.add(header.key_id)
        if header.type == _RESTORED:
            self._restored_at = offset
        if self._frontier.size == self.head.size:
            # Through the chain it is a signature over every entry before it.
            if not is_signed_by(stored, self.current_key):
                raise Damaged(offset, "the signature does not verify")
            if self._frontier.root() != self.head.root:
                raise Damaged(None, "the entries do not lead to the root that the log's tree has")

    def _require_leaf_before(self, offset: int) -> None:
        """Raise Damaged where it is the entry before this one that is not what it was."""
        with self._log.tree() as read:
            if offset > self.first and read(0, offset - 1) != self._leaf:
                raise Damaged(offset - 1, "the entry is not the one whose hash stands in the tree")

    def _restored_before(self) -> int | None:
        """The last restore before `first`, looked for in short transactions."""
        end = self.first
        while end > 0:
            found, end = self._log.read_back(0, end, types={_RESTORED}, limit=1, max_reads=_READ_ENTRIES)
            if found:
                return found[0].offset
        return None

    def _require_same_log(self, since: Manifest) -> None:
        if since.mark != self.mark:
            raise NotASnapshot(
                "this log was encrypted, decrypted or given other keys since that snapshot: make a full one"
            )
        if self.continues != Head(size=since.size, root=since.root):
            raise NotASnapshot(f"this log does not go on from that snapshot, which stands at {since.size}:{since.root}")
