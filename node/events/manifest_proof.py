"""The proof that a manifest stands in its organisation's log: made from our own, checked when a peer serves its (PROTOCOL §10.2).

Always: a check trusts nothing but the manifest's key; every other member is recomputed or led to a signed root.
"""

import base64
import binascii

import msgspec
from msgspec import Struct

from node.errors import LogDamaged
from node.events.checkpoint import Checkpoint, open_checkpoint, origin_in, sign_checkpoint
from node.events.entry import FIRST_PREV, Item, open_header
from node.events.log import Log
from node.events.tree import consistency_path, inclusion_path, leaf_hash, root_at, root_from_inclusion
from node.keys import Signer
from node.times import format_ms

# Item 0 is the actor, 1 the event's plain members, 2 the manifest.
MANIFEST_ITEM = 2


class Proof(Struct, frozen=True, kw_only=True):
    """An inclusion proof, or, with `log_index` the smaller size, a consistency proof. Hashes in hex."""

    log_index: int
    leaf_hash: str
    tree_size: int
    root_hash: str
    hashes: tuple[str, ...]
    checkpoint: str


class LogEntry(Struct, frozen=True, kw_only=True):
    """A manifest's `log_entry`: its inclusion proof with the entry and the item. `integrated_time` is RFC 3339."""

    log_index: int
    leaf_hash: str
    tree_size: int
    root_hash: str
    hashes: tuple[str, ...]
    checkpoint: str
    log_id: str
    integrated_time: str
    entry: str
    item: str
    item_salt: str


def checkpoint_at(log: Log, size: int, origin: str, signer: Signer) -> str:
    """The signed checkpoint of the log's first `size` entries, under the name that the log had then."""
    with log.tree() as read:
        root = root_at(size, read)
    return sign_checkpoint(Checkpoint(origin=origin, size=size, root=root), signer)


def inclusion_proof(log: Log, offset: int, size: int, origin: str, signer: Signer) -> Proof:
    """Needs 0 <= offset < size <= the log's announced size."""
    with log.tree() as read:
        path, root, leaf = inclusion_path(offset, size, read), root_at(size, read), read(0, offset)
    return _proof(offset, leaf, size, root, path, checkpoint_at(log, size, origin, signer))


def consistency_proof(log: Log, first: int, second: int, origin: str, signer: Signer) -> Proof:
    """Needs 0 < first <= second <= the log's announced size; `leaf_hash` is of the last entry of the smaller tree."""
    with log.tree() as read:
        path, root, leaf = consistency_path(first, second, read), root_at(second, read), read(0, first - 1)
    return _proof(first, leaf, second, root, path, checkpoint_at(log, second, origin, signer))


def manifest_log_entry(log: Log, offset: int, size: int, at_ms: int, origin: str, signer: Signer) -> LogEntry:
    """The `log_entry` of the manifest published at `offset`, against the tree of the first `size` entries."""
    proof, item = inclusion_proof(log, offset, size, origin, signer), log.item(offset, MANIFEST_ITEM)
    return LogEntry(
        **msgspec.structs.asdict(proof),
        log_id=signer.key_id,
        integrated_time=format_ms(at_ms),
        entry=_b64(log.stored(offset)),
        item=_b64(item.content),
        item_salt=_b64(item.salt),
    )


def check_log_entry(entry: LogEntry, *, manifest: bytes, node_id: str, public_key: bytes) -> Checkpoint:
    """The checkpoint that a proven manifest rests on. ValueError, in words, where the proof does not hold."""
    stored, item = _unb64(entry.entry), Item(_unb64(entry.item_salt), _unb64(entry.item))
    if item.content != manifest:
        raise ValueError("the proof is of another manifest")
    if item.commitment() not in _commitments(stored):
        raise ValueError("the entry does not commit to the manifest")
    leaf = leaf_hash(stored)
    if leaf.hex() != entry.leaf_hash:
        raise ValueError("the leaf hash is not the entry's")
    hashes = [bytes.fromhex(text) for text in entry.hashes]
    if any(len(node) != len(FIRST_PREV) for node in hashes):
        raise ValueError("a hash of the path has not 32 bytes")
    root = root_from_inclusion(leaf, entry.log_index, entry.tree_size, hashes)
    if root is None or root.hex() != entry.root_hash:
        raise ValueError("the path does not lead to the root")
    origin = origin_in(entry.checkpoint, node_id)
    checkpoint = open_checkpoint(entry.checkpoint, origin=origin, public_key=public_key)
    if (checkpoint.size, checkpoint.root) != (entry.tree_size, root):
        raise ValueError("the checkpoint names another size or root")
    return checkpoint


def _commitments(stored: bytes) -> tuple[str, ...]:
    try:
        return open_header(stored).items
    except LogDamaged as damage:
        raise ValueError(damage.detail) from damage


def _proof(index: int, leaf: bytes, size: int, root: bytes, path: list[bytes], checkpoint: str) -> Proof:
    return Proof(
        log_index=index,
        leaf_hash=leaf.hex(),
        tree_size=size,
        root_hash=root.hex(),
        hashes=tuple(node.hex() for node in path),
        checkpoint=checkpoint,
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
