"""Checkpoints: C2SP signed notes that commit the node to its log's size and root (PROTOCOL §10.2).

Always: Ed25519 is deterministic, so there is one checkpoint per size without one being stored.
Always: what a note says is looked at once its signature has verified; before that its first line is compared, and no more.

Does not compute roots (see `tree.py`).
"""

import base64
import re

from msgspec import Struct

from node.events.signed_note import (
    ED25519,
    Note,
    VerifierKey,
    ed25519_lines,
    parse_note,
    signature_line,
    strict_b64decode,
)
from node.keys import Signer

_MAX_SIZE_DIGITS = 18
_RESTORED = re.compile(r"/[0-9a-f]{16}")


class Checkpoint(Struct, frozen=True, kw_only=True):
    """What a checkpoint says: whose log, how many entries (`size`), and the 32-byte root over them."""

    origin: str
    size: int
    root: bytes


def origin_of(node_id: str) -> str:
    """The log's name, `{authority}/stigmem-log`."""
    return f"{node_id.removeprefix('stigmem://')}/stigmem-log"


def log_key(origin: str, public_key: bytes) -> VerifierKey:
    """The key that signs the checkpoints of the log `origin`."""
    return VerifierKey(name=origin, kind=ED25519, public_key=public_key)


def note_text(checkpoint: Checkpoint) -> str:
    """What is signed: three lines, each with its newline."""
    return f"{checkpoint.origin}\n{checkpoint.size}\n{base64.b64encode(checkpoint.root).decode()}\n"


def restored_origin(node_id: str, suffix: bytes) -> str:
    """The name of a log that goes on from a snapshot: `{authority}/stigmem-log/` and 16 hex digits (PROTOCOL §12)."""
    return f"{origin_of(node_id)}/{suffix.hex()}"


def origin_in(note: str, node_id: str) -> str:
    """The name that a note gives the node's log, restored or not. ValueError where it is of nobody's or another's."""
    origin = note.partition("\n")[0]
    if not is_name_of(origin, origin_of(node_id)):
        raise ValueError("the checkpoint is of another log")
    return origin


def is_name_of(origin: str, first: str) -> bool:
    """Whether a log that was called `first` may be called that: so, or as it is after a restore."""
    return origin == first or (origin.startswith(first) and _RESTORED.fullmatch(origin.removeprefix(first)) is not None)


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> str:
    text = note_text(checkpoint)
    line = signature_line(log_key(checkpoint.origin, signer.public_key), signer.sign(text.encode()))
    return f"{text}\n{line}\n"


def stated_origin(note: str) -> str:
    """The first line of a note: whose log it says it is of, which holds once the note verified under that name."""
    return parse_note(note).text.partition("\n")[0]


def open_checkpoint(note: str, *, origin: str, public_key: bytes) -> Checkpoint:
    """The checkpoint in a signed note. ValueError where its form or this key's signature does not hold."""
    return _opened(note, origin, public_key)[0]


def bare_note(note: str, *, origin: str, public_key: bytes) -> str:
    """The note with this key's signature alone: others' lines are not its signer's word. ValueError as for `open_checkpoint`."""
    return _opened(note, origin, public_key)[1]


def _opened(note: str, origin: str, public_key: bytes) -> tuple[Checkpoint, str]:
    parsed = parse_note(note)
    if parsed.text.partition("\n")[0] != origin:
        raise ValueError("the checkpoint is of another log")
    lines = ed25519_lines(parsed, log_key(origin, public_key))
    return _parse_text(parsed), f"{parsed.text}\n{lines[0].line}\n"


def _parse_text(note: Note) -> Checkpoint:
    """Lines behind the third are the log's own affair (c2sp.org/tlog-checkpoint): signed, and not looked at."""
    lines = note.text[:-1].split("\n")
    if len(lines) < 3 or not all(lines):
        raise ValueError("a checkpoint has three lines, and none is empty")
    origin, size, root = lines[:3]
    if not (size.isascii() and size.isdecimal()) or (len(size) > 1 and size[0] == "0") or len(size) > _MAX_SIZE_DIGITS:
        raise ValueError("the tree size is not a decimal number")
    raw_root = strict_b64decode(root)
    if len(raw_root) != 32:
        raise ValueError("the root is not 32 bytes")
    return Checkpoint(origin=origin, size=int(size), root=raw_root)
