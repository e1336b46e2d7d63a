"""Cosignatures: a witness's timestamped word that a log went on from all it had seen of it (C2SP tlog-cosignature).

Always: a cosignature line is made from what was checked, and holds for one text, one name and one key.

Does not know when a witness may cosign (see `node/commands/witness.py`).
"""

import struct

from node.events.signed_note import (
    TIMESTAMPED_ED25519,
    SignatureLine,
    VerifierKey,
    parse_note,
    parse_signature_line,
    signature_line,
)
from node.keys import SIGNATURE_BYTES, Signer, verify

_BLOB = struct.Struct(f">Q{SIGNATURE_BYTES}s")
_MAX_TIME_S = 2**63 - 1


def witness_name(node_id: str) -> str:
    """The key name of a node as a witness: its authority, told from its log's own key by the kind of key."""
    return node_id.removeprefix("stigmem://")


def cosign(note: str, *, name: str, signer: Signer, time_s: int) -> str:
    """The signature line of the witness `name` for a checkpoint's signed note."""
    signature = signer.sign(_message(_text_of(note), time_s))
    return signature_line(_key(name, signer.public_key), _BLOB.pack(time_s, signature))


def check_cosignature(line: str, *, note: str, name: str, public_key: bytes) -> int:
    """When (epoch, seconds) the witness signed the note. ValueError where the line is not that witness's, or does not hold."""
    parsed, key = parse_signature_line(line), _key(name, public_key)
    if (parsed.name, parsed.key_hash) != (name, key.hash()):
        raise ValueError("not a signature line of that witness")
    return _time_of(parsed, _text_of(note), public_key)


def cosigned_at(note: str, witness: VerifierKey) -> int:
    """When (epoch, seconds) the witness last signed the note. ValueError where it has not, or a line of it does not hold."""
    parsed = parse_note(note)
    return max(_time_of(line, parsed.text, witness.public_key) for line in parsed.lines_of(witness))


def _time_of(line: SignatureLine, text: str, public_key: bytes) -> int:
    try:
        time_s, signature = _BLOB.unpack(line.blob)
    except struct.error as error:
        raise ValueError("not a timestamped cosignature") from error
    if time_s > _MAX_TIME_S or not verify(public_key, _message(text, time_s), signature):
        raise ValueError("the cosignature does not hold")
    return time_s


def _key(name: str, public_key: bytes) -> VerifierKey:
    return VerifierKey(name=name, kind=TIMESTAMPED_ED25519, public_key=public_key)


def _text_of(note: str) -> str:
    return note.rpartition("\n\n")[0] + "\n"


def _message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()
