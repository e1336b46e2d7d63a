"""Checkpoints (C2SP signed notes) and the manifest's proof that is built on one (PROTOCOL §10.2).

Always: nothing of a note is looked at before its signature has verified.
A signature line of another name or key hash is skipped, as witnesses add theirs; each one of ours must hold.

Does not check: that a checkpoint extends an earlier one (see merkle.check_consistency).
"""

import base64
import binascii
import json
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.independent.merkle import check_inclusion, hash_leaf

EVENT_PREFIX = b"stigmem-event/v1\n"
SIGNATURE_BYTES = 64
PROOF_MEMBERS = ("log_index", "leaf_hash", "tree_size", "root_hash", "hashes", "checkpoint")
LOG_ENTRY_MEMBERS = frozenset({*PROOF_MEMBERS, "log_id", "integrated_time", "entry", "item", "item_salt"})


class NoteInvalid(ValueError):
    """The text is no signed note, or is not signed by the key it should be signed by."""


def is_signed_by(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def open_note(note: str, name: str, public_key: bytes) -> str:
    """The text of the note, once a signature of `name` by `public_key` has been found good."""
    if any(ord(c) < 0x20 and c != "\n" for c in note):
        raise NoteInvalid("control character")
    text, blank, signatures = note.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise NoteInvalid("no signature lines behind an empty line")
    text += "\n"
    key_hash = sha256(name.encode() + b"\n\x01" + public_key).digest()[:4]
    ours = [s for n, h, s in map(_signature_line, signatures[:-1].split("\n")) if (n, h) == (name, key_hash)]
    if not ours:
        raise NoteInvalid(f"not signed by {name}+{key_hash.hex()}")
    if not all(is_signed_by(public_key, s, text.encode()) for s in ours):
        raise NoteInvalid("signature does not verify")
    return text


def parse_checkpoint(text: str, origin: str, public_key: bytes) -> tuple[int, bytes]:
    """Size and root of a checkpoint of the log `origin`, signed by its key."""
    lines = open_note(text, origin, public_key).split("\n")
    # Lines behind the third are the log's own affair, as long as none of them is empty.
    if len(lines) < 4 or not all(lines[:-1]):
        raise NoteInvalid("not three lines, or an empty one")
    if lines[0] != origin:
        raise NoteInvalid(f"checkpoint of {lines[0]!r}, not of {origin!r}")
    if not lines[1].isascii() or not lines[1].isdigit() or str(int(lines[1])) != lines[1]:
        raise NoteInvalid(f"size {lines[1]!r} is not a plain decimal")
    root = strict_base64(lines[2])
    if len(root) != 32:
        raise NoteInvalid("root is not 32 bytes")
    return int(lines[1]), root


def check_log_entry(log_entry: Mapping[str, object], manifest: Mapping[str, object], origin: str = "") -> list[str]:
    """What is wrong with a manifest's `log_entry`, nothing if it proves the manifest logged. PROTOCOL §10.2.

    `origin` is needed only where it does not follow from the manifest's entity (a restored node, PROTOCOL §12).
    """
    absent = sorted(LOG_ENTRY_MEMBERS - log_entry.keys())
    if absent:
        return [f"member {name} is missing" for name in absent]
    try:
        return _manifest_faults(manifest) + _entry_faults(log_entry, manifest, origin or _origin_of(manifest))
    except (ValueError, TypeError, KeyError) as error:
        return [f"malformed: {error}"]


def canonical_manifest(manifest: Mapping[str, object]) -> bytes:
    # This is RFC 8785 for what a manifest holds (ASCII member names, text, whole numbers), and for nothing wider.
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def strict_base64(text: str) -> bytes:
    """Standard base64 in its one spelling: padded, and no loose bits at its end."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise NoteInvalid(f"base64: {error}") from error
    if base64.b64encode(data).decode() != text:
        raise NoteInvalid("base64 with loose bits")
    return data


def _signature_line(line: str) -> tuple[str, bytes, bytes]:
    dash, name, encoded, *rest = [*line.split(" "), "", ""]
    if dash != "\u2014" or not name or "+" in name or name.split() != [name] or rest != ["", ""]:
        raise NoteInvalid(f"not a signature line: {line!r}")
    signature = strict_base64(encoded)
    if len(signature) < 5:
        raise NoteInvalid("signature line holds no signature")
    return name, signature[:4], signature[4:]


def _origin_of(manifest: Mapping[str, object]) -> str:
    return f"{urlsplit(str(manifest['entity_uri'])).netloc}/stigmem-log"


def _manifest_faults(manifest: Mapping[str, object]) -> list[str]:
    public_key = _public_key_of(manifest)
    signed = canonical_manifest({k: v for k, v in manifest.items() if k != "signature"})
    faults = []
    if sha256(public_key).hexdigest() != manifest["key_id"]:
        faults.append("manifest: key_id is not the hash of its public key")
    if not is_signed_by(public_key, _base64url(str(manifest["signature"])), signed):
        faults.append("manifest: signature does not verify")
    return faults


def _entry_faults(proof: Mapping[str, object], manifest: Mapping[str, object], origin: str) -> list[str]:
    entry, item, salt = (strict_base64(str(proof[name])) for name in ("entry", "item", "item_salt"))
    header_bytes, signature = entry[:-SIGNATURE_BYTES], entry[-SIGNATURE_BYTES:]
    header = json.loads(header_bytes)
    leaf_hash, root = bytes.fromhex(str(proof["leaf_hash"])), bytes.fromhex(str(proof["root_hash"]))
    index, size = int(str(proof["log_index"])), int(str(proof["tree_size"]))
    hashes = [bytes.fromhex(h) for h in proof["hashes"]]
    public_key = _public_key_of(manifest)
    claims = {
        "item is not the manifest": item == canonical_manifest(manifest),
        "item_salt is not 16 bytes": len(salt) == 16,
        "item is not among the commitments": sha256(salt + item).hexdigest() in header["items"],
        "leaf_hash is not the hash of entry": hash_leaf(entry) == leaf_hash,
        "log_index is not the entry's offset": header["offset"] == index,
        "log_id is not the manifest's key_id": proof["log_id"] == manifest["key_id"],
        # The entry may be signed by an older key of the same node (PROTOCOL §11), which is not at hand here.
        "entry's signature does not verify": header["key_id"] != manifest["key_id"]
        or is_signed_by(public_key, signature, EVENT_PREFIX + header_bytes),
        "hashes do not lead to root_hash": check_inclusion(leaf_hash, index, size, hashes, root),
        "checkpoint names another size or root": parse_checkpoint(str(proof["checkpoint"]), origin, public_key)
        == (size, root),
    }
    return [fault for fault, holds in claims.items() if not holds]


def _public_key_of(manifest: Mapping[str, object]) -> bytes:
    return _base64url(str(manifest["public_key"]))


def _base64url(text: str) -> bytes:
    return strict_base64((text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)).translate(str.maketrans("-_", "+/")))
