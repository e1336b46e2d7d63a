"""Cosignatures: a witness's timestamped word that a log went on from all it had seen of it (C2SP tlog-cosignature).

Always: a cosignature line is made from what was checked, and holds for one text, one name and one key.

Does not know when a witness may cosign (see `node/commands/witness.py`).
"""

import base64
import binascii
import struct
from hashlib import sha256

from node.keys import SIGNATURE_BYTES, Signer, verify

_EM_DASH = "\u2014"
_TIMESTAMPED_ED25519 = b"\x04"
_BLOB = struct.Struct(f">4sQ{SIGNATURE_BYTES}s")


def witness_name(node_id: str) -> str:
    """The key name of a node as a witness: its authority, told from its log's own key by the kind of key."""
    return node_id.removeprefix("stigmem://")


def cosign(note: str, *, name: str, signer: Signer, time_s: int) -> str:
    """The signature line of the witness `name` for a checkpoint's signed note."""
    signature = signer.sign(_message(note, time_s))
    blob = _BLOB.pack(_key_hash(name, signer.public_key), time_s, signature)
    return f"{_EM_DASH} {name} {base64.b64encode(blob).decode()}"


def check_cosignature(line: str, *, note: str, name: str, public_key: bytes) -> int:
    """When (epoch, seconds) the witness signed the note. ValueError where the line is not that witness's, or does not hold."""
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != _EM_DASH or parts[1] != name:
        raise ValueError("not a signature line of that witness")
    try:
        key_hash, time_s, signature = _BLOB.unpack(base64.b64decode(parts[2], validate=True))
    except (binascii.Error, struct.error) as error:
        raise ValueError("not a timestamped cosignature") from error
    if key_hash != _key_hash(name, public_key) or not verify(public_key, _message(note, time_s), signature):
        raise ValueError("the cosignature does not hold")
    return time_s


def _message(note: str, time_s: int) -> bytes:
    text = note.rpartition("\n\n")[0]
    return f"cosignature/v1\ntime {time_s}\n{text}\n".encode()


def _key_hash(name: str, public_key: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _TIMESTAMPED_ED25519 + public_key).digest()[:4]
