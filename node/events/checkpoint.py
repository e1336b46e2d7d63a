"""Checkpoints: C2SP signed notes that commit the node to its log's size and root (PROTOCOL §10.2).

Always: Ed25519 is deterministic, so there is one checkpoint per size without one being stored.

Does not compute roots (see `tree.py`).
"""

import base64
import binascii
from hashlib import sha256

from msgspec import Struct

from node.keys import Signer, verify

_EM_DASH = "\u2014"
_ED25519 = b"\x01"
_SIGNATURE_BYTES = 4 + 64


class Checkpoint(Struct, frozen=True, kw_only=True):
    """What a checkpoint says: whose log, how many entries (`size`), and the 32-byte root over them."""

    origin: str
    size: int
    root: bytes


def origin_of(node_id: str) -> str:
    """The log's name, `{authority}/stigmem-log`."""
    return f"{node_id.removeprefix('stigmem://')}/stigmem-log"


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> str:
    text = _note_text(checkpoint)
    blob = _key_hash(checkpoint.origin, signer.public_key) + signer.sign(text.encode())
    return f"{text}\n{_EM_DASH} {checkpoint.origin} {base64.b64encode(blob).decode()}\n"


def open_checkpoint(note: str, *, origin: str, public_key: bytes) -> Checkpoint:
    """The checkpoint in a signed note. ValueError where its form or this key's signature does not hold."""
    return _opened(note, origin, public_key)[0]


def bare_note(note: str, *, origin: str, public_key: bytes) -> str:
    """The note with this key's signature alone: others' lines are not its signer's word. ValueError as for `open_checkpoint`."""
    return _opened(note, origin, public_key)[1]


def _opened(note: str, origin: str, public_key: bytes) -> tuple[Checkpoint, str]:
    text, separator, signatures = note.rpartition("\n\n")
    if not separator:
        raise ValueError("a signed note has a blank line before its signatures")
    checkpoint = _parse_text(text + "\n")
    if checkpoint.origin != origin:
        raise ValueError("the checkpoint is of another log")
    line = _signature_line(text + "\n", signatures, origin, public_key)
    if line is None:
        raise ValueError("the checkpoint carries no valid signature by that key")
    return checkpoint, f"{text}\n\n{line}\n"


def _note_text(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.origin}\n{checkpoint.size}\n{base64.b64encode(checkpoint.root).decode()}\n"


def _parse_text(text: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0]:
        raise ValueError("a checkpoint has three lines")
    origin, size, root = lines[:3]
    if not (size.isascii() and size.isdecimal()) or (len(size) > 1 and size[0] == "0") or len(size) > 18:
        raise ValueError("the tree size is not a decimal number")
    raw_root = base64.b64decode(root, validate=True)
    if len(raw_root) != 32:
        raise ValueError("the root is not 32 bytes")
    return Checkpoint(origin=origin, size=int(size), root=raw_root)


def _signature_line(text: str, signatures: str, origin: str, public_key: bytes) -> str | None:
    expected = _key_hash(origin, public_key)
    for line in signatures.split("\n"):
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != _EM_DASH or parts[1] != origin:
            continue
        try:
            blob = base64.b64decode(parts[2], validate=True)
        except binascii.Error:
            continue
        if len(blob) == _SIGNATURE_BYTES and blob[:4] == expected and verify(public_key, text.encode(), blob[4:]):
            return line
    return None


def _key_hash(name: str, public_key: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:4]
