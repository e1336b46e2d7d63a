"""Apply: fold entries into every projection, in step, and remember how far.

Always: the checkpoint moves in the transaction that holds what was folded, so views and checkpoint cannot disagree.
The live writer, recovery at start, `replay verify` and `replay rebuild` all call this, the last two also `plain_facts.py`.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import islice

import lmdb
from msgspec import Struct

from node.events.entry import Entry
from node.projections.base import Handles
from node.projections.view import View

CHECKPOINT_TABLE = "checkpoint"
# What one transaction of a fold takes in at most: each writes every page anew that it touches, and keys that are hashes touch as
# many pages as there are keys. Bounded in bytes too, because the rows are held until the end and one entry may bring MiBs of them.
PORTION_ENTRIES = 8192
PORTION_BYTES = 32 << 20
_KEY = b"head"
_CHECKPOINT = struct.Struct(">Q32s")


class Checkpoint(Struct, frozen=True, kw_only=True):
    """How many entries the views hold, and the leaf hash of the last of them (32 zero bytes for none)."""

    size: int
    leaf: bytes


def apply(view: View, entry: Entry) -> None:
    """Fold one entry into all projections that it changes."""
    for projection in view.folding(type(entry.event)):
        projection.fold(entry)


def portion(entries: Iterable[Entry], *, max_bytes: int = PORTION_BYTES) -> Iterator[Entry]:
    """As many of the entries as one transaction takes in; at least one where there is one."""
    for entry in islice(entries, PORTION_ENTRIES):
        yield entry
        max_bytes -= entry.stored_bytes
        if max_bytes <= 0:
            return


def apply_all(txn: lmdb.Transaction, handles: Handles, entries: Iterable[Entry]) -> View:
    """Fold entries into the views of a write transaction and move its checkpoint behind them."""
    view, last = View(txn, handles), None
    for entry in entries:
        apply(view, entry)
        last = entry
    if last is not None:
        view.flush()
        move_checkpoint(txn, handles, last)
    return view


def move_checkpoint(txn: lmdb.Transaction, handles: Handles, last: Entry) -> None:
    put_checkpoint(txn, handles, Checkpoint(size=last.offset + 1, leaf=last.leaf))


def put_checkpoint(txn: lmdb.Transaction, handles: Handles, checkpoint: Checkpoint) -> None:
    txn.put(_KEY, _CHECKPOINT.pack(checkpoint.size, checkpoint.leaf), db=handles[CHECKPOINT_TABLE])


def read_checkpoint(txn: lmdb.Transaction, handles: Handles) -> Checkpoint:
    row = txn.get(_KEY, db=handles[CHECKPOINT_TABLE])
    size, leaf = _CHECKPOINT.unpack(row) if row is not None else (0, bytes(32))
    return Checkpoint(size=size, leaf=leaf)
