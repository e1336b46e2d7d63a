"""Signed notes as C2SP writes them down (c2sp.org/signed-note): a text, an empty line, and lines of who signed it.

Always: a note is taken whole or not at all: one malformed line, one control character, and it is none.
Always: lines of unknown keys are ignored; every line of a known key must hold.
The one thing that is stricter than the text: base64 is read in its one spelling, so that a line has no twin.

Does not know what a text says (see `checkpoint.py`), nor what a line of another kind of key is over (see `cosignature.py`).
"""

import base64
import binascii
import re
from hashlib import sha256

from msgspec import Struct

from node.keys import is_sound_public_key, verify

EM_DASH = "\u2014"
ED25519, TIMESTAMPED_ED25519 = b"\x01", b"\x04"
KEY_HASH_BYTES = 4
# The text asks for room for sixteen signatures of nearly 5 kB each.
MAX_NOTE_BYTES = 1 << 17

_VERIFIER_KEY = re.compile(r"([^+\s]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")


class VerifierKey(Struct, frozen=True, kw_only=True):
    """A key and the name it signs under. `kind` is the one byte that says what its signatures are over."""

    name: str
    kind: bytes
    public_key: bytes

    def hash(self) -> bytes:
        """The 4 bytes by which a signature line names the key."""
        return sha256(self.name.encode() + b"\n" + self.kind + self.public_key).digest()[:KEY_HASH_BYTES]

    def __str__(self) -> str:
        """As other tools for notes read it: name, hex of the hash, base64 of kind and key, with a plus between."""
        return f"{self.name}+{self.hash().hex()}+{base64.b64encode(self.kind + self.public_key).decode()}"


class SignatureLine(Struct, frozen=True, kw_only=True):
    """One line below a note's text. `blob` is what stands behind the key's hash."""

    line: str
    name: str
    key_hash: bytes
    blob: bytes


class Note(Struct, frozen=True, kw_only=True):
    """A note in form; nobody's signature has been looked at. `text` ends in a newline."""

    text: str
    lines: tuple[SignatureLine, ...]

    def lines_of(self, key: VerifierKey) -> list[SignatureLine]:
        """The lines that name this key. ValueError where there is none."""
        found = [line for line in self.lines if (line.name, line.key_hash) == (key.name, key.hash())]
        if not found:
            raise ValueError("the note carries no valid signature by that key")
        return found


def parse_note(note: str) -> Note:
    """The parts of a note. ValueError, in words, where the bytes are none."""
    if len(note.encode()) > MAX_NOTE_BYTES:
        raise ValueError(f"a note of more than {MAX_NOTE_BYTES} bytes is not read")
    if any(character < " " and character != "\n" for character in note):
        raise ValueError("a signed note has no control characters")
    text, blank_line, signatures = note.rpartition("\n\n")
    if not blank_line:
        raise ValueError("a signed note has a blank line before its signatures")
    if not signatures.endswith("\n"):
        raise ValueError("a signed note ends with a signature line and its newline")
    lines = tuple(parse_signature_line(line) for line in signatures[:-1].split("\n"))
    return Note(text=f"{text}\n", lines=lines)


def parse_signature_line(line: str) -> SignatureLine:
    """A signature line without its newline. ValueError where it is none."""
    dash, name, encoded, *rest = [*line.split(" "), "", ""]
    if dash != EM_DASH or rest != ["", ""] or not is_key_name(name):
        raise ValueError("a signature line is an em dash, a key name and base64, with one space between")
    raw = strict_b64decode(encoded)
    if len(raw) <= KEY_HASH_BYTES:
        raise ValueError("a signature line holds no signature")
    return SignatureLine(line=line, name=name, key_hash=raw[:KEY_HASH_BYTES], blob=raw[KEY_HASH_BYTES:])


def ed25519_lines(note: Note, key: VerifierKey) -> list[SignatureLine]:
    """The lines of this Ed25519 key, each of which holds for the text. ValueError where none is there, or one does not hold."""
    lines = note.lines_of(key)
    if not all(verify(key.public_key, note.text.encode(), line.blob) for line in lines):
        raise ValueError("a signature by that key does not hold for the note")
    return lines


def signature_line(key: VerifierKey, blob: bytes) -> str:
    """The line, without its newline, that says `key` signed."""
    return f"{EM_DASH} {key.name} {base64.b64encode(key.hash() + blob).decode()}"


def parse_verifier_key(text: str) -> VerifierKey:
    """The key in `NAME+HASH+BASE64`. ValueError where it is none, or its hash is not its own."""
    match = _VERIFIER_KEY.fullmatch(text)
    if match is None or not is_key_name(match[1]):
        raise ValueError("a verifier key is NAME+HASH+BASE64")
    raw = strict_b64decode(match[3])
    key = VerifierKey(name=match[1], kind=raw[:1], public_key=raw[1:])
    if key.kind not in (ED25519, TIMESTAMPED_ED25519) or not is_sound_public_key(key.public_key):
        raise ValueError("the verifier key is no Ed25519 key")
    if key.hash().hex() != match[2]:
        raise ValueError("the verifier key's hash is not that of its name and key")
    return key


def is_key_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(map(str.isspace, name))


def strict_b64decode(text: str) -> bytes:
    """Standard base64 in its one spelling: padded, and no loose bits at its end. ValueError for every other."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise ValueError("base64 in another spelling than its own")
    return raw
