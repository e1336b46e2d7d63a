"""A second checker of proof bundles, written from docs/proofs.md and docs/log-format.md alone.

Always: nothing of node/ or replay/ is imported. `python -m tests.independent.bundles FILE PUBLIC_KEY_HEX` prints the fact, or
the item, and ends with 0; whatever does not hold is one line and 6.
"""

import json
import re
import sys
from hashlib import sha256
from pathlib import Path

from tests.independent.merkle import check_consistency, check_inclusion, hash_leaf
from tests.independent.notes import EVENT_PREFIX, SIGNATURE_BYTES, is_signed_by, parse_checkpoint, strict_base64

MAX_BYTES = 16 << 20
HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
TREE = ("log_index", "leaf_hash", "tree_size", "root_hash", "hashes", "checkpoint")
ENTRY, ITEM = ("log_id", "integrated_time", "entry"), ("item", "item_salt")
FACT_TYPES = ("fact.asserted.1", "batch.received.1", "push.received.1", "fact.quarantined.1", "conflict.resolved.1")


def check_bundle(raw: bytes, public_key: bytes) -> dict[str, object]:
    """The header and, by `item`, what the bundle's item says. ValueError where anything does not hold."""
    bundle = _object(raw)
    root, size = _hash(bundle["root_hash"]), _number(bundle["tree_size"])
    leaf, index = _hash(bundle["leaf_hash"]), _number(bundle["log_index"])
    header = _entry(bundle, public_key) if "entry" in bundle else {}
    if not check_inclusion(leaf, index, size, _hashes(bundle["hashes"]), root):
        raise ValueError("no path from leaf to root")
    note = str(bundle["checkpoint"])
    if parse_checkpoint(note, note.split("\n", maxsplit=1)[0], public_key) != (size, root):
        raise ValueError("the checkpoint is of another tree")
    if "consistency" in bundle:
        _consistency(bundle["consistency"], size, root)
    return {"header": header, "item": _item(bundle, header) if "item" in bundle else None}


def _object(raw: bytes) -> dict[str, object]:
    if len(raw) > MAX_BYTES:
        raise ValueError("too long")

    def members(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a member twice")
        return dict(pairs)

    try:
        bundle = json.loads(raw.decode(), object_pairs_hook=members)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(bundle, dict):
        raise ValueError("no object")
    names = set(bundle)
    for group in (ENTRY, ITEM):
        if names & set(group) not in (set(), set(group)):
            raise ValueError("members that stand together do not")
    if (
        not names >= set(TREE)
        or names - {*TREE, *ENTRY, *ITEM, "consistency"}
        or ("item" in names and "entry" not in names)
    ):
        raise ValueError("other members than a bundle has")
    return bundle


def _entry(bundle: dict[str, object], public_key: bytes) -> dict[str, object]:
    stored = _base64(bundle["entry"])
    header_bytes, signature = stored[:-SIGNATURE_BYTES], stored[-SIGNATURE_BYTES:]
    if not is_signed_by(public_key, signature, EVENT_PREFIX + header_bytes):
        raise ValueError("the entry is not signed by the log's key")
    header = json.loads(header_bytes)
    expected = {
        "leaf_hash": hash_leaf(stored).hex(),
        "log_id": sha256(public_key).hexdigest(),
        "log_index": header["offset"],
        "integrated_time": header["at"],
    }
    if any(bundle[name] != value for name, value in expected.items()) or header["key_id"] != expected["log_id"]:
        raise ValueError("a member is not what the entry says")
    return header


def _item(bundle: dict[str, object], header: dict[str, object]) -> object:
    salt, item = _base64(bundle["item_salt"]), _base64(bundle["item"])
    if len(salt) != 16 or sha256(salt + item).hexdigest() not in header["items"]:
        raise ValueError("the entry does not commit to the item")
    if header["type"] not in FACT_TYPES:
        return item
    said = json.loads(item)
    return said.get("fact", said) if isinstance(said, dict) else said


def _consistency(proof: object, size: int, root: bytes) -> None:
    if not isinstance(proof, dict) or set(proof) != {"tree_size", "root_hash", "hashes"}:
        raise ValueError("other members than a consistency proof has")
    first, first_root, hashes = _number(proof["tree_size"]), _hash(proof["root_hash"]), _hashes(proof["hashes"])
    if first == 0:
        holds = first_root == sha256(b"").digest() and not hashes
    else:
        holds = check_consistency(first, first_root, size, root, hashes)
    if not holds:
        raise ValueError("the tree does not go on from the smaller one")


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 2**53:
        raise ValueError("not a number of entries")
    return value


def _hash(value: object) -> bytes:
    if not isinstance(value, str) or not HASH.fullmatch(value):
        raise ValueError("not a hash")
    return bytes.fromhex(value)


def _hashes(value: object) -> list[bytes]:
    if not isinstance(value, list) or len(value) > 64:
        raise ValueError("not a list of hashes")
    return [_hash(one) for one in value]


def _base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("not base64")
    return strict_base64(value)


if __name__ == "__main__":
    try:
        print(json.dumps(check_bundle(Path(sys.argv[1]).read_bytes(), bytes.fromhex(sys.argv[2])), default=repr))
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(print(f"does not hold: {error}") or 6)
