"""Proof bundles: one file that proves an entry of a log, and one item of it, to whoever has the log's public key (docs/proofs.md).

Always: a check trusts the key alone; each member is recomputed, or led to a root that the key signed, and none is passed over.
Always: bytes of any form are refused in words (ValueError), and what is read is bounded.

An answer of the public inclusion proof, and a manifest's `log_entry`, are bundles as they come. Does not read files, fetch
anything, or know who holds which key.
"""

import base64
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from node.errors import LogDamaged, MalformedJson
from node.events.checkpoint import Checkpoint, is_name_of, open_checkpoint, stated_origin
from node.events.entry import SALT_BYTES, SIGNATURE_BYTES, Header, Item, is_signed_by, open_header
from node.events.evidence import FACT_ITEMS
from node.events.facts import Fact
from node.events.log import Log
from node.events.rotations import MAX_ROTATIONS, RotationEvent, chain_of, open_rotation
from node.events.signed_note import MAX_NOTE_BYTES, strict_b64decode
from node.events.tree import (
    EMPTY_ROOT,
    consistency_path,
    inclusion_path,
    leaf_hash,
    root_at,
    root_from_inclusion,
    roots_from_consistency,
)
from node.keys import key_id_of
from node.strict_json import MAX_LIST_VALUES, scan_json

MAX_BUNDLE_BYTES = 1 << 24

# Paths of a tree of 2^53 leaves have 53 hashes, a consistency proof one more.
# A pattern that every reader of the API's document knows; by itself `$` would take a line's end too.
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Hashes = Annotated[tuple[Hash, ...], Meta(max_length=64)]
Number = Annotated[int, Meta(ge=0, le=2**53)]
Rotations = Annotated[tuple[RotationEvent, ...], Meta(max_length=MAX_ROTATIONS)]
NoteText = Annotated[str, Meta(max_length=MAX_NOTE_BYTES)]


class Consistency(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That the bundle's tree goes on from the one of `tree_size` entries with the root `root_hash` (RFC 6962 §2.1.2)."""

    tree_size: Number
    root_hash: Hash
    hashes: Hashes


class Bundle(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Members as PROTOCOL §10.2 names them. Those of an entry stand together or not at all, and so do those of an item.

    `rotations` lead from the log's first key to the one that signed the checkpoint, where that is another.
    """

    log_index: Number
    leaf_hash: Hash
    tree_size: Number
    root_hash: Hash
    hashes: Hashes
    checkpoint: NoteText
    log_id: Hash | UnsetType = UNSET
    integrated_time: str | UnsetType = UNSET
    entry: str | UnsetType = UNSET
    item: str | UnsetType = UNSET
    item_salt: str | UnsetType = UNSET
    consistency: Consistency | UnsetType = UNSET
    rotations: Rotations | UnsetType = UNSET


class LogKey(Struct, frozen=True, kw_only=True):
    """Whose word counts. `origin` is the log's first name; None: any log of this key, by the name that the key itself signed."""

    public_key: bytes
    origin: str | None = None


class Proven(Struct, frozen=True, kw_only=True):
    """What a bundle proves. `header` is None where it holds no entry, `item` with its index where it holds no item."""

    checkpoint: Checkpoint
    log_index: int
    leaf: bytes
    header: Header | None
    item_index: int | None
    item: bytes | None
    goes_on_from: Consistency | None


def open_bundle(raw: bytes) -> Bundle:
    """A bundle in form, nothing of it checked. ValueError, in words, where the bytes are none."""
    if len(raw) > MAX_BUNDLE_BYTES:
        raise ValueError(f"a bundle of more than {MAX_BUNDLE_BYTES} bytes is not read")
    try:
        scan_json(raw, max_values=MAX_LIST_VALUES)
        return msgspec.json.decode(raw, type=Bundle)
    except (MalformedJson, msgspec.MsgspecError) as error:
        raise ValueError(f"not a proof bundle: {error}") from error


def open_proof(raw: bytes) -> Bundle:
    """A consistency proof as the node answers it: `log_index` is the smaller size. Nothing of it is checked.

    Of its members the two sizes and the hashes are of use; both roots are taken from checkpoints.
    """
    proof = open_bundle(raw)
    if any(getattr(proof, name) is not UNSET for name in ("entry", "item", "item_salt", "consistency")):
        raise ValueError("not a consistency proof")
    return proof


def encode_bundle(bundle: Bundle) -> bytes:
    """One member a line, for people; a reader takes any JSON of these members."""
    return msgspec.json.format(msgspec.json.encode(bundle), indent=1) + b"\n"


def make_bundle(
    log: Log,
    offset: int,
    checkpoint: Checkpoint,
    note: str,
    *,
    item: int | None = None,
    goes_on_from: int | None = None,
    rotations: Sequence[RotationEvent] = (),
) -> Bundle:
    """The bundle of the entry at `offset` in the tree that `note` signs, with one item of it and an older size where asked.

    Needs offset < checkpoint.size <= the log's size, and 0 < goes_on_from <= checkpoint.size. Raises LogDamaged.
    """
    stored, size = log.stored(offset), checkpoint.size
    header = open_header(stored)
    with log.tree() as read:
        leaf, root, path = read(0, offset), root_at(size, read), inclusion_path(offset, size, read)
        older = UNSET
        if goes_on_from is not None:
            hashes = consistency_path(goes_on_from, size, read)
            older = _consistency(goes_on_from, root_at(goes_on_from, read), hashes)
    part = None if item is None else log.item(offset, item)
    return Bundle(
        log_index=offset,
        leaf_hash=leaf.hex(),
        tree_size=size,
        root_hash=root.hex(),
        hashes=tuple(node.hex() for node in path),
        checkpoint=note,
        log_id=header.key_id,
        integrated_time=header.at,
        entry=_b64(stored),
        item=UNSET if part is None else _b64(part.content),
        item_salt=UNSET if part is None else _b64(part.salt),
        consistency=older,
        rotations=tuple(rotations) or UNSET,
    )


def check_bundle(bundle: Bundle, key: LogKey) -> Proven:
    """What the bundle proves under that key. ValueError, in words, at the first thing that does not hold.

    With rotations the key may be any that they name: an older one vouches for the next, and the newest for the whole tree.
    """
    keys = _checked_keys(bundle, key)
    header = _checked_entry(bundle, keys)
    leaf = bytes.fromhex(bundle.leaf_hash)
    root = root_from_inclusion(leaf, bundle.log_index, bundle.tree_size, _raw(bundle.hashes))
    if root is None or root.hex() != bundle.root_hash:
        raise ValueError("the path does not lead from the leaf to the root")
    checkpoint = check_note(bundle.checkpoint, structs.replace(key, public_key=keys[-1]))
    if (checkpoint.size, checkpoint.root) != (bundle.tree_size, root):
        raise ValueError("the checkpoint names another size or root")
    index, item = _checked_item(bundle, header)
    older = None if bundle.consistency is UNSET else bundle.consistency
    if older is not None:
        check_extends(older.tree_size, bytes.fromhex(older.root_hash), checkpoint, older.hashes)
    return Proven(
        checkpoint=checkpoint,
        log_index=bundle.log_index,
        leaf=leaf,
        header=header,
        item_index=index,
        item=item,
        goes_on_from=older,
    )


def check_note(note: str, key: LogKey) -> Checkpoint:
    """The checkpoint that the log's key signed. ValueError where it is none."""
    origin = stated_origin(note)
    if key.origin is not None and not is_name_of(origin, key.origin):
        raise ValueError(
            f"the checkpoint is of another log, {origin}, than {key.origin}; a key without a name takes both"
        )
    return open_checkpoint(note, origin=origin, public_key=key.public_key)


def check_extends(size: int, root: bytes, newer: Checkpoint, hashes: Sequence[str]) -> None:
    """That the log of `newer` began with the `size` entries under `root`. ValueError where the hashes do not prove it."""
    if size > newer.size:
        raise ValueError(f"the log has {newer.size} entries and had {size}")
    if size in (0, newer.size):
        if root != (newer.root if size else EMPTY_ROOT):
            raise ValueError(f"two roots for one size of {size} entries: the log has forked")
        if hashes:
            raise ValueError("from the empty tree, and between equal ones, a consistency proof has no hashes")
        return
    roots = roots_from_consistency(size, newer.size, _raw(hashes), root)
    if roots is None or roots != (root, newer.root):
        raise ValueError(f"nothing proves that the log of {newer.size} entries goes on from that of {size}")


def fact_in(event_type: str, item: bytes) -> Fact | None:
    """The fact that an item of an entry of this type holds; None where it is another kind of item."""
    if event_type not in FACT_ITEMS:
        return None
    _, read = FACT_ITEMS[event_type]
    try:
        return read(item)
    except (ValueError, RecursionError):
        return None


def _checked_keys(bundle: Bundle, key: LogKey) -> list[bytes]:
    """The log's keys, oldest first, as far as the bundle shows them: the last one signs its checkpoint."""
    if bundle.rotations is UNSET:
        return [key.public_key]
    rotations = [open_rotation(msgspec.to_builtins(event)) for event in bundle.rotations]
    if not rotations or rotations[0].entity_uri is None or rotations[0].old_public_key is None:
        raise ValueError("the rotations do not begin with a key")
    chain = chain_of(rotations[0].entity_uri, rotations[-1].new_public_key, rotations, ())
    keys = [link.public_key for link in chain]
    if key.public_key not in keys:
        raise ValueError("the rotations do not lead to or from the log's key")
    return keys


def _checked_entry(bundle: Bundle, keys: Sequence[bytes]) -> Header | None:
    members = (bundle.entry, bundle.log_id, bundle.integrated_time)
    if all(member is UNSET for member in members):
        return None
    if any(member is UNSET for member in members):
        raise ValueError("entry, log_id and integrated_time stand together")
    stored = strict_b64decode(bundle.entry)
    header = _header_of(stored)
    if leaf_hash(stored).hex() != bundle.leaf_hash:
        raise ValueError("the leaf hash is not the entry's")
    signer = next((key for key in keys if key_id_of(key) == header.key_id), None)
    if signer is None or bundle.log_id != header.key_id:
        raise ValueError("the entry is signed by another key than the log's")
    if not is_signed_by(stored, signer):
        raise ValueError("the entry's signature does not verify")
    if header.offset != bundle.log_index:
        raise ValueError(f"the entry stands at {header.offset}, not at {bundle.log_index}")
    if header.at != bundle.integrated_time:
        raise ValueError("integrated_time is not the entry's")
    return header


def _checked_item(bundle: Bundle, header: Header | None) -> tuple[int, bytes] | tuple[None, None]:
    if bundle.item is UNSET and bundle.item_salt is UNSET:
        return None, None
    if bundle.item is UNSET or bundle.item_salt is UNSET or header is None:
        raise ValueError("item and item_salt stand together, and with an entry")
    item = Item(strict_b64decode(bundle.item_salt), strict_b64decode(bundle.item))
    # A salt of another length moves the border between the two: one commitment would be of many items.
    if len(item.salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    if item.commitment() not in header.items:
        raise ValueError("the entry does not commit to the item")
    return header.items.index(item.commitment()), item.content


def _header_of(stored: bytes) -> Header:
    if len(stored) <= SIGNATURE_BYTES:
        raise ValueError("the entry is too short for a header and a signature")
    try:
        return open_header(stored)
    except LogDamaged as damage:
        raise ValueError(f"the entry: {damage.detail}") from damage


def _consistency(size: int, root: bytes, hashes: list[bytes]) -> Consistency:
    return Consistency(tree_size=size, root_hash=root.hex(), hashes=tuple(node.hex() for node in hashes))


def _raw(hashes: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in hashes]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
