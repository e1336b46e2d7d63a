"""What a check of entries needs besides the log: their items taken row by row, and what a header says of place and time.

Always: what does not hold is a LogDamaged with the words for it; the caller knows the offset.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import takewhile

from node.clock import parse_hlc
from node.errors import LogDamaged
from node.events.entry import Header, open_header
from node.events.log import ITEM_KEY, OFFSET_KEY
from node.times import parse_rfc3339

Row = tuple[bytes, bytes]
# Of an item that is not there, by offset and index: whether the log says that it was erased.
IsErased = Callable[[int, int], bool]
# LMDB has no empty keys.
_NO_ROW = (b"", b"")


def items_of(
    headers: Iterable[Header], rows: Iterator[Row], open_row: Callable[[bytes, bytes], bytes], is_erased: IsErased
) -> Iterator[list[bytes | None]]:
    """The items of consecutive entries, each salt ‖ content or None where it was erased, from rows that begin with those of the
    first, which `open_row` opens under their key.

    Raises LogDamaged at an entry unless exactly its own are there, but for those erased, and are what its header commits to.
    """
    key, row = next(rows, _NO_ROW)
    for header in headers:
        offset, items = header.offset, []
        for index, commitment in enumerate(header.items):
            if key != ITEM_KEY.pack(offset, index):
                if is_erased(offset, index):
                    items.append(None)
                    continue
                raise LogDamaged(_missing(header, index, key))
            item = open_row(key, row)
            if sha256(item).hexdigest() != commitment:
                raise LogDamaged(f"item {index} does not match its commitment")
            items.append(item)
            key, row = next(rows, _NO_ROW)
        if _NO_ROW[0] < key < OFFSET_KEY.pack(offset + 1):
            raise LogDamaged(f"a row of items belongs to no entry: the header commits to {len(items)}")
        yield items


def require_rows(header: Header, rows: Iterator[Row], is_erased: IsErased) -> int:
    """How many rows an entry's items have, of rows that begin with them; they need not open. Raises LogDamaged as above."""
    keys = [key for key, _ in takewhile(lambda row: row[0] < OFFSET_KEY.pack(header.offset + 1), rows)]
    there = [index for index in range(len(header.items)) if not is_erased(header.offset, index)]
    if keys != [ITEM_KEY.pack(header.offset, index) for index in there]:
        raise LogDamaged(f"{len(keys)} items are stored, the header commits to {len(there)} that were not erased")
    return len(there)


def _missing(header: Header, index: int, key: bytes) -> str:
    if _NO_ROW[0] < key < OFFSET_KEY.pack(header.offset + 1):
        return f"item {index} is missing, or a row of items belongs to no entry"
    return f"{index} items are stored, the header commits to {len(header.items)}"


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
