"""What a check of entries needs besides the log: their items taken row by row, and what a header says of place and time.

Always: what does not hold is a LogDamaged with the words for it; the caller knows the offset.
"""

from collections.abc import Iterator

from node.clock import parse_hlc
from node.errors import LogDamaged
from node.events.entry import Header, Item, open_header
from node.events.log import CLEAR, ITEM_KEY, OFFSET_KEY
from node.times import parse_rfc3339

Row = tuple[bytes, bytes]
# LMDB has no empty keys.
_NO_ROW = (b"", b"")


class ItemRows:
    """The rows of items from some entry on, taken entry by entry."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._next = next(rows, _NO_ROW)

    def take(self, offset: int, count: int) -> tuple[Item, ...]:
        """The items of an entry. Raises LogDamaged unless exactly its own are there."""
        items = []
        expected, behind = ITEM_KEY.pack(offset, 0), OFFSET_KEY.pack(offset + 1)
        key, row = self._next
        while key < behind and key:
            if key != expected:
                raise LogDamaged(f"item {len(items)} is missing, or a row of items belongs to no entry")
            if not row.startswith(CLEAR):
                raise LogDamaged(f"item {len(items)} has a form that this version does not read")
            items.append(Item(row[1:17], row[17:]))
            self._next = key, row = next(self._rows, _NO_ROW)
            expected = ITEM_KEY.pack(offset, len(items))
        if len(items) != count:
            raise LogDamaged(f"{len(items)} items are stored, the header commits to {count}")
        return tuple(items)


def out_of_place(stored: bytes, offset: int, prev: bytes) -> str:
    """What is wrong with an entry that does not begin as the one at this place must."""
    try:
        header = open_header(stored)
    except LogDamaged as damage:
        return damage.detail
    if header.offset != offset:
        return f"the header says offset {header.offset}"
    if header.prev != prev.hex():
        return "prev is not the leaf hash of the entry before"
    return "the header is not written in the one form that it has"


def times_of(header: Header) -> tuple[tuple[int, int], int]:
    try:
        hlc = parse_hlc(header.hlc)
    except ValueError as error:
        raise LogDamaged(f"hlc {header.hlc!r} is no hybrid logical clock") from error
    try:
        return hlc, parse_rfc3339(header.at)
    except ValueError as error:
        raise LogDamaged(f"at {header.at!r} is no time: {error}") from error
