"""The RFC 6962 Merkle tree over the log: hashes, inclusion and consistency proofs.

Always: only complete subtrees are stored, and a stored one never changes.
Offsets, sizes and levels are plain integers; hashes are 32 raw bytes.

Does not sign anything (see `checkpoint.py`) and does not read the log.
"""

from collections.abc import Callable
from hashlib import sha256

# (level, index) -> hash of the complete subtree over leaves [index << level, (index + 1) << level)
Node = tuple[int, int]
ReadNode = Callable[[int, int], bytes]

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962 §2.1: the hash of one leaf, here header and signature of an entry."""
    return sha256(b"\x00" + entry).digest()


def inner_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The complete subtrees on the right edge: all that an append needs of the tree before it."""

    def __init__(self, size: int, peaks: list[bytes]) -> None:
        self.size = size
        self._peaks = peaks

    @classmethod
    def load(cls, size: int, read: ReadNode) -> "Frontier":
        return cls(size, [read(level, index) for level, index in peaks_of(size)])

    def copy(self) -> "Frontier":
        return Frontier(self.size, list(self._peaks))

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add one leaf; return the complete subtrees that this closed, the leaf itself first."""
        index, level, node = self.size, 0, leaf
        closed = [(0, index, leaf)]
        while index & 1:
            node = inner_hash(self._peaks.pop(), node)
            index >>= 1
            level += 1
            closed.append((level, index, node))
        self._peaks.append(node)
        self.size += 1
        return closed

    def root(self) -> bytes:
        return _bag(self._peaks)


def peaks_of(size: int) -> list[Node]:
    """The complete subtrees that a tree of this size splits into, left to right."""
    return _cover(0, size)


def root_at(size: int, read: ReadNode) -> bytes:
    """The root of the first `size` leaves."""
    return _bag([read(level, index) for level, index in peaks_of(size)])


def inclusion_path(offset: int, size: int, read: ReadNode) -> list[bytes]:
    """RFC 6962 §2.1.1: the path from the leaf at `offset` to the root at `size`. Needs 0 <= offset < size."""
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _split(end - start)
        if offset < split:
            path.append(_subtree(split, end, read))
            end = split
        else:
            path.append(_subtree(start, split, read))
            start = split
    return path[::-1]


def consistency_path(first: int, second: int, read: ReadNode) -> list[bytes]:
    """RFC 6962 §2.1.2: proves that the tree at `first` is a prefix of the one at `second`. Needs 0 < first <= second."""
    path: list[bytes] = []
    start, end, is_whole = 0, second, True
    while first != end:
        split = start + _split(end - start)
        if first <= split:
            path.append(_subtree(split, end, read))
            end = split
        else:
            path.append(_subtree(start, split, read))
            start, is_whole = split, False
    if not is_whole:
        path.append(_subtree(start, end, read))
    return path[::-1]


def root_from_inclusion(leaf: bytes, offset: int, size: int, path: list[bytes]) -> bytes | None:
    """The root that an inclusion proof leads to (RFC 9162 §2.1.3.2), or None where its length cannot fit."""
    if not 0 <= offset < size:
        return None
    index, last, node = offset, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            node = inner_hash(sibling, node)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            node = inner_hash(node, sibling)
        index, last = index >> 1, last >> 1
    return node if last == 0 else None


def roots_from_consistency(first: int, second: int, path: list[bytes], first_root: bytes) -> tuple[bytes, bytes] | None:
    """Both roots that a consistency proof leads to (RFC 9162 §2.1.4.2), or None where its length cannot fit.

    Where `first` is a power of two the proof leaves its root out: `first_root` is taken for it, and comes back as the first one.
    """
    if not 0 < first < second:
        return None
    nodes = [first_root, *path] if first & (first - 1) == 0 else path
    if not nodes:
        return None
    shift = (first & -first).bit_length() - 1
    return _both_roots((first - 1) >> shift, (second - 1) >> shift, nodes[0], nodes[1:])


def roots_from_last_leaf(first: int, second: int, path: list[bytes], leaf: bytes) -> tuple[bytes, bytes] | None:
    """Both roots that the inclusion proof of leaf `first - 1` in the tree at `second` leads to, or None as above.

    That leaf is the first tree's last, so the siblings on its left make up the rest of that tree.
    """
    if not 0 < first < second:
        return None
    return _both_roots(first - 1, second - 1, leaf, path)


def _both_roots(index: int, last: int, start: bytes, path: list[bytes]) -> tuple[bytes, bytes] | None:
    first_root = second_root = start
    for sibling in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            first_root, second_root = inner_hash(sibling, first_root), inner_hash(sibling, second_root)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            second_root = inner_hash(second_root, sibling)
        index, last = index >> 1, last >> 1
    return (first_root, second_root) if last == 0 else None


def _cover(start: int, end: int) -> list[Node]:
    """Complete subtrees that cover [start, end), left to right; start is aligned to the first one."""
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append((level, start >> level))
        start += 1 << level
    return nodes


def _split(width: int) -> int:
    """The largest power of two smaller than width."""
    return 1 << ((width - 1).bit_length() - 1)


def _subtree(start: int, end: int, read: ReadNode) -> bytes:
    return _bag([read(level, index) for level, index in _cover(start, end)])


def _bag(peaks: list[bytes]) -> bytes:
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = inner_hash(peak, root)
    return root
