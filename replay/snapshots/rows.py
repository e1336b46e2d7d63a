"""What a chunk holds: entries with their items, one behind the other, as the log stores them; of an encrypted log, before them
the wrapped keys of those items that no chunk before it had.

Always: what is read back is what was written, byte for byte; a length that does not fit is damage, never an allocation.

Does not look into an entry (see replay/chain.py).
"""

import struct
from collections.abc import Iterator

from node.events.item_keys import NAME_BYTES, WRAPPED_BYTES

_LENGTH = struct.Struct(">I")

# Header ‖ signature, and the rows of `items` in order of index; None, which has no bytes in a chunk, for an item that was erased.
Rows = tuple[bytes, list[bytes | None]]
# A name and the key of that name, wrapped, as the log's key table has them.
KeyRow = tuple[bytes, bytes]
_KEY_ROW = struct.Struct(f">{NAME_BYTES}s{WRAPPED_BYTES}s")


def pack_rows(stored: bytes, items: list[bytes | None]) -> bytes:
    """One entry as it lies in a chunk."""
    parts = [_LENGTH.pack(len(stored)), stored, _LENGTH.pack(len(items))]
    for item in items:
        row = item or b""
        parts += (_LENGTH.pack(len(row)), row)
    return b"".join(parts)


def unpack_rows(raw: bytes) -> Iterator[Rows]:
    """The entries of a chunk. ValueError where its bytes are not such entries to the last one."""
    position = 0
    while position < len(raw):
        stored, position = _taken(raw, position)
        count, position = _number(raw, position)
        if count > (len(raw) - position) // _LENGTH.size:
            raise ValueError("an entry has more items than the chunk has room for")
        items: list[bytes | None] = []
        for _ in range(count):
            item, position = _taken(raw, position)
            items.append(item or None)
        yield stored, items


def pack_keys(keys: list[KeyRow]) -> bytes:
    """What a chunk of an encrypted log begins with."""
    return _LENGTH.pack(len(keys)) + b"".join(_KEY_ROW.pack(*row) for row in keys)


def unpack_keys(raw: bytes) -> tuple[list[KeyRow], bytes]:
    """The keys of a chunk, and the rest of it. ValueError as above."""
    count, start = _number(raw, 0)
    end = start + count * _KEY_ROW.size
    if end > len(raw):
        raise ValueError("the chunk ends within its keys")
    return list(_KEY_ROW.iter_unpack(raw[start:end])), raw[end:]


def _number(raw: bytes, position: int) -> tuple[int, int]:
    end = position + _LENGTH.size
    if end > len(raw):
        raise ValueError("the chunk ends within an entry")
    return _LENGTH.unpack_from(raw, position)[0], end


def _taken(raw: bytes, position: int) -> tuple[bytes, int]:
    length, start = _number(raw, position)
    if start + length > len(raw):
        raise ValueError("the chunk ends within an entry")
    return raw[start : start + length], start + length
