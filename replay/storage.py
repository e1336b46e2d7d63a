"""Encrypt a data folder, decrypt it, or give it fresh keys, offline: `stigmem storage encrypt|decrypt|rekey`.

Always: headers, leaves, tree and public keys are carried over as they lie, so proofs and checkpoints hold on; each item is held
against its commitment before it is written in its new form. Rekeying gives every item a fresh key, not only a fresh wrapping.
Always: the new file is on disk, whole and checked, before it takes the old one's place by one rename (node/events/at_rest_folder.py
finishes what was cut off, at the next start or command); then the old bytes are in no file of the folder any more. What the disk
itself keeps of them is beyond this.

Views are not carried over: the node folds them anew.
"""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import lmdb
from msgspec import Struct

from node.at_rest import AtRestError, Secret
from node.durable import sync
from node.errors import LogDamaged, StorageFailed
from node.events.at_rest_folder import (
    LOG_FOLDER,
    NEW_LOG_FOLDER,
    finish_change,
    is_changing,
    is_encrypted,
)
from node.events.entry import Entry
from node.events.item_keys import AT_REST, ITEM_KEYS, SealedItems
from node.events.key_file import (
    NEXT_KEY_FILE,
    FileKey,
    new_file_key,
    unlock,
    write_file_key,
)
from node.events.log import COPY_FOLDER, OFFSET_KEY, Log, clear_rows, finish_compaction, item_key, open_store
from node.events.log_file import DATA_FILE
from node.events.store import Store, storage_errors
from node.folder_lock import FolderLock
from replay.chain import damage_of
from replay.opening import unlocked
from replay.verify import check_log, require_log

_READ_ENTRIES, _ROWS_AT_ONCE = 256, 4096
# How many entries are carried over, and of how many.
Tell = Callable[[int, int], None]


class Change(Struct, frozen=True):
    """From which secret to which; None for a folder in clear."""

    old: Secret | None
    new: Secret | None


def change(data_dir: Path, wanted: Change, tell: Tell) -> int:
    """Make the change, and say how many entries the log has. Finishes what an earlier one left undone first.

    Raises AtRestError where the folder is not as it would have to be, FolderInUse, NotALog, Damaged, Refusal, OSError.
    """
    if not (data_dir / COPY_FOLDER).exists():
        require_log(data_dir)
    with FolderLock(data_dir / "lock"):
        # An erasure that was cut off leaves the log as it lay before it, in its old form, beside the one that is.
        finish_compaction(data_dir / LOG_FOLDER)
        if is_changing(data_dir):
            finish_change(data_dir)
        old_keys = _old_keys(data_dir, wanted)
        with unlocked(lambda: wanted.old, old_keys):
            # A damaged log is not to be given a new form, in which nobody can tell any more what it was.
            check_log(data_dir / LOG_FOLDER)
        try:
            return _changed(data_dir, wanted, old_keys, tell)
        except LogDamaged as damage:
            raise damage_of(damage) from damage


def _old_keys(data_dir: Path, wanted: Change) -> tuple[FileKey, ...]:
    if wanted.old is None:
        if is_encrypted(data_dir):
            raise AtRestError(f"{data_dir} is encrypted already: `stigmem storage rekey` gives it other keys")
        return ()
    if not is_encrypted(data_dir):
        raise AtRestError(f"{data_dir} lies in clear already")
    return unlock(data_dir, wanted.old)


def _changed(data_dir: Path, wanted: Change, old_keys: tuple[FileKey, ...], tell: Tell) -> int:
    folder = data_dir / NEW_LOG_FOLDER
    folder.mkdir(mode=0o700)
    key = None if wanted.new is None else new_file_key()
    size = _write_log(data_dir / LOG_FOLDER, old_keys, folder, key, tell)
    if key is not None:
        write_file_key(data_dir / NEXT_KEY_FILE, key, wanted.new)
    sync(folder)
    # Up to here nothing happened; from here on it is done, and `finish_change` only clears up.
    (folder / DATA_FILE).replace(data_dir / LOG_FOLDER / DATA_FILE)
    sync(data_dir / LOG_FOLDER)
    sync(folder)
    finish_change(data_dir)
    return size


def _write_log(old_dir: Path, old_keys: tuple[FileKey, ...], new_dir: Path, key: FileKey | None, tell: Tell) -> int:
    old = Log(old_dir, is_readonly=True, file_keys=old_keys)
    try:
        with storage_errors():
            store = open_store(new_dir)
        try:
            size = _Rewriting(old, store, key).all(tell)
            store.sync()
        finally:
            store.close()
    finally:
        old.close()
    # Not a part of the log: whoever opens it next makes its own.
    (new_dir / "lock.mdb").unlink(missing_ok=True)
    return size


class _Rewriting:
    """One log into another environment, with its items in another form."""

    def __init__(self, old: Log, new: Store, key: FileKey | None) -> None:
        self._old, self._new = old, new
        self._items: SealedItems | None = None
        if key is not None:
            new.make_table(ITEM_KEYS)
            with storage_errors(), new.begin(write=True) as txn:
                self._items = SealedItems.found(txn, new, key)

    def all(self, tell: Tell) -> int:
        """Carry everything over; how many entries there are."""
        for table in ("keys", "tree", "meta"):
            self._copy(table)
        reached, size = 0, self._old.head().size
        while reached < size:
            entries = self._old.read(reached, _READ_ENTRIES)
            self._take(entries)
            reached += len(entries)
            tell(reached, size)
        return size

    def _take(self, entries: list[Entry]) -> None:
        with storage_errors(), self._new.begin(write=True) as txn:
            laid = None if self._items is None else self._items.lay(txn, entries, item_key)
            if laid is not None:
                self._put(txn, ITEM_KEYS, laid.keys)
            self._put(txn, "headers", [(OFFSET_KEY.pack(entry.offset), entry.stored) for entry in entries])
            self._put(txn, "items", clear_rows(entries) if laid is None else laid.items)
        if laid is not None:
            self._items.took(laid)

    def _copy(self, table: str) -> None:
        """Rows as they lie; of the table meta without what says how items lie."""
        with storage_errors(), self._old.store.begin() as txn, txn.cursor(db=self._old.store.table(table)) as cursor:
            rows = (row for row in cursor if (table, row[0]) != ("meta", AT_REST))
            while batch := list(islice(rows, _ROWS_AT_ONCE)):
                with self._new.begin(write=True) as new:
                    self._put(new, table, batch)

    def _put(self, txn: lmdb.Transaction, table: str, rows: list[tuple[bytes, bytes]]) -> None:
        with txn.cursor(db=self._new.table(table)) as cursor:
            consumed, _ = cursor.putmulti(rows)
        if consumed != len(rows):
            raise StorageFailed(f"{table}: {len(rows) - consumed} rows were not taken")
