"""Which items of a log were erased, as the log itself says it: an item that is not there is damage unless a later entry names it.

Always: only what lies in the log counts, an entry's own commitment included; an entry erases nothing that comes after it.

Does not erase (see `log.py`, `erasing.py`).
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256

from node.errors import LogDamaged
from node.events.entry import SALT_BYTES, open_header
from node.events.event import type_of
from node.events.tombstones import EntityErased, places_in

# In the data folder while its files may hold what an entry says is erased: the next start writes them anew (see node/erasing.py).
NOTE = "erasing"
# Of its items: the actor, what is plain, the places.
PLACES_ITEM = 2
_MARK = f'"type":"{type_of(EntityErased)}"'.encode()

_OFFSET_BYTES = 8

# By offset, the items of the entry there.
Erasures = dict[int, set[int]]
NOTHING_ERASED: Erasures = {}


def erasing_offsets(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[int]:
    """Of rows of headers, the offsets of those that erase, by their keys: of a damaged log others may be missing."""
    for key, stored in rows:
        if _MARK in stored and len(key) == _OFFSET_BYTES:
            yield int.from_bytes(key)


def add_erasures(erasures: Erasures, stored: bytes, committed: bytes) -> None:
    """Take in what one erasing entry says; `committed` is salt ‖ content of its item PLACES_ITEM.

    Raises LogDamaged where it is not what the entry commits to.
    """
    header = open_header(stored)
    if len(header.items) <= PLACES_ITEM or sha256(committed).hexdigest() != header.items[PLACES_ITEM]:
        raise LogDamaged(f"item {PLACES_ITEM} does not match its commitment", offset=header.offset)
    try:
        for place in places_in(committed[SALT_BYTES:]):
            if place.offset < header.offset and place.item:
                erasures.setdefault(place.offset, set()).add(place.item)
    except ValueError as error:
        raise LogDamaged(str(error), offset=header.offset) from error


def is_erased(erasures: Erasures, offset: int, index: int) -> bool:
    return index in erasures.get(offset, ())
