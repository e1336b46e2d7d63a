"""Merkle trees by definition: RFC 6962 §2.1 word for word, and the two verification algorithms of RFC 9162 §2.1.3-4.

Always: recursion over slices, as the RFC writes it. Slow and plain on purpose: the oracle that faster code is held
against. The proof makers and checkers below share nothing but the two hash functions, so each tests the other.

Does not know what a leaf is: callers bring leaf hashes (see verifier.py for the log's).
"""

from collections.abc import Sequence
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()


def hash_leaf(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 §2.1, MTH, over leaf hashes."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return hash_children(root_of(leaves[:k]), root_of(leaves[k:]))


def inclusion_proof(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 6962 §2.1.1, PATH(m, D[n])."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"no leaf {index} in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion_proof(index, leaves[:k]), root_of(leaves[k:])]
    return [*inclusion_proof(index - k, leaves[k:]), root_of(leaves[:k])]


def consistency_proof(size1: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 6962 §2.1.2, PROOF(m, D[n])."""
    if not 0 < size1 <= len(leaves):
        raise ValueError(f"no tree of {size1} inside one of {len(leaves)}")
    return _subproof(size1, leaves, is_old_root=True)


def check_inclusion(leaf_hash: bytes, index: int, size: int, hashes: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162 §2.1.3.2."""
    if not 0 <= index < size:
        return False
    fn, sn, r = index, size - 1, leaf_hash
    for p in hashes:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = hash_children(p, r)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = hash_children(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def check_consistency(size1: int, root1: bytes, size2: int, root2: bytes, hashes: Sequence[bytes]) -> bool:
    """RFC 9162 §2.1.4.2, and what it leaves open: equal sizes need equal roots; any tree extends the empty one."""
    if not 0 <= size1 <= size2:
        return False
    if size1 == size2:
        return root1 == root2 and not hashes
    if size1 == 0:
        return root1 == EMPTY_ROOT and not hashes
    if not hashes:
        return False
    return _consistent(size1, root1, size2, root2, hashes)


def _consistent(size1: int, root1: bytes, size2: int, root2: bytes, hashes: Sequence[bytes]) -> bool:
    path = [root1, *hashes] if size1 & (size1 - 1) == 0 else list(hashes)
    fn, sn = size1 - 1, size2 - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = hash_children(c, fr), hash_children(c, sr)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = hash_children(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == root1 and sr == root2


def _subproof(size1: int, leaves: Sequence[bytes], *, is_old_root: bool) -> list[bytes]:
    if size1 == len(leaves):
        return [] if is_old_root else [root_of(leaves)]
    k = _split(len(leaves))
    if size1 <= k:
        return [*_subproof(size1, leaves[:k], is_old_root=is_old_root), root_of(leaves[k:])]
    return [*_subproof(size1 - k, leaves[k:], is_old_root=False), root_of(leaves[:k])]


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1
