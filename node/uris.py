"""Names: the one spelling of a URI, who owns what under it, and which names are the node's own.

Always: `normal_uri` is idempotent, and two names are the same if and only if their normal forms are the same text.
What a name may look like is checked before it is put into normal form, so no spelling slips past (PROTOCOL §1, §16).

Does not check: lengths (see node/commands/facts.py), or whether a principal may use a name.
"""

import re
from functools import lru_cache
from hashlib import sha1

from node.errors import InvalidField, InvalidUri

RESERVED_SOURCE = "system:stigmem"
URL_NAMESPACE = bytes.fromhex("6ba7b8119dad11d180b400c04fd430c8")

_SCHEME = "stigmem://"
# C0, DEL, C1; then what is invisible or turns the direction of writing, so that one name passes for another; then lone
# surrogates, which UTF-8 cannot hold.
_CONTROL = "\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ud800-\udfff"
_CONTROLS = re.compile(f"[{_CONTROL}]")
# What else shows nothing in a line: the soft hyphen, joiners, fillers, separators of lines and paragraphs, old marks of direction,
# variation selectors, notes between lines, music's format characters, tags. Logs hold such names, so only new ones are refused.
_INVISIBLE = re.compile(
    f"[{_CONTROL}\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2028\u2029\u2065\u206a-\u206f\u3164\ufe00-\ufe0f\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)

_LABEL = r"[a-z0-9]+(?:-+[a-z0-9]+)*"
_PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_AUTHORITY = rf"{_LABEL}(?:\.{_LABEL})*(?::{_PORT})?"
_PCHARS = r"[a-z0-9\-._~!$&'()*+,;=:@]*"
# Escapes that stand in a normal form: upper-case, and of no unreserved character.
_ESCAPE = r"%(?:[0189A-F][0-9A-F]|2[0-9A-CF]|3[A-F]|[46]0|5[B-E]|7[B-DF])"
_SEGMENT = rf"(?!\.{{0,2}}(?:/|\Z)){_PCHARS}(?:{_ESCAPE}{_PCHARS})*"

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UUIDS = re.compile(f"(?:{_UUID.pattern})*")
_NORMAL_AUTHORITY = re.compile(_AUTHORITY)
_NORMAL_URI = re.compile(rf"{_SCHEME}{_AUTHORITY}(?:/{_SEGMENT})*")
# Whatever in a segment is not spelled as the normal form spells it, or might not be.
_TO_RESPELL = re.compile(r"%([0-9A-Fa-f]{2})?|\s+|[A-Z]+|[^a-z0-9\-._~!$&'()*+,;=:@]")
_UNRESERVED = re.compile(r"[A-Za-z0-9\-._~]")


# Deciding and folding one fact ask for the same names ten times.
@lru_cache(maxsize=1024)
def normal_uri(text: str) -> str:
    """The normal form of a `stigmem://` URI; an informal name only trimmed. InvalidUri for what is neither."""
    # Nearly every name arrives in normal form; one match settles that in a microsecond.
    if _NORMAL_URI.fullmatch(text):
        return text
    if _CONTROLS.search(text):
        raise InvalidUri("control and invisible characters are refused in a name")
    trimmed = text.strip()
    if not trimmed:
        raise InvalidUri("a name is empty")
    if is_informal(trimmed):
        return trimmed
    authority, *segments = trimmed[len(_SCHEME) :].removesuffix("/").split("/")
    return "/".join([_SCHEME + _normal_authority(authority), *map(_normal_segment, segments)])


def normal_field(field: str, text: str) -> str:
    """`normal_uri` of what a caller gave as `field`, which the refusal then names."""
    try:
        return normal_uri(text)
    except InvalidUri as error:
        raise InvalidUri(f"{field}: {error.detail}") from None


@lru_cache(maxsize=1024)
def is_normal(text: str) -> bool:
    if _NORMAL_URI.fullmatch(text):
        return True
    return is_informal(text) and text != "" and text == text.strip() and not _CONTROLS.search(text)


def is_informal(text: str) -> bool:
    """Whether it is a name without authority, such as `user:alice`."""
    return not text.startswith(_SCHEME) and text.strip()[: len(_SCHEME)].lower() != _SCHEME


@lru_cache(maxsize=1024)
def authority_of(uri: str) -> str | None:
    """The organisation's own URI, `stigmem://authority`, of a URI in normal form; None for an informal name."""
    if not uri.startswith(_SCHEME):
        return None
    return _SCHEME + uri[len(_SCHEME) :].partition("/")[0]


# Sources are few and come again with every fact; two patterns are matched for each that is not equal.
@lru_cache(maxsize=1024)
def lies_under(x: str, y: str) -> bool:
    """The authority rule (PROTOCOL §1). Both as stored: in normal form, or a foreign node's id byte for byte."""
    if x == y:
        return True
    # An informal `y` owns only itself, else `agent:a` would own `agent:a/b`, which anybody may have taken.
    return x.startswith(y + "/") and bool(_NORMAL_URI.fullmatch(y) and _NORMAL_URI.fullmatch(x))


def origin_of(source: str, first_node: str) -> str:
    """The origin half of a source's identity (PROTOCOL §1); `first_node` wrote the fact first."""
    return authority_of(source) or first_node


# Few relations and sources are used again and again; what is refused is not kept.
@lru_cache(maxsize=1024)
def normal_relation(text: str) -> str:
    """Trimmed, the prefix in lower case; one without a prefix as it is (PROTOCOL §2.1)."""
    check_plain(text, "relation")
    prefix, colon, name = text.strip().partition(":")
    if not prefix.strip() or (colon and not name.strip()):
        raise InvalidField("relation: an empty prefix or name")
    return prefix.lower() + colon + name if colon else prefix


def has_prefix(relation: str) -> bool:
    return ":" in relation


@lru_cache(maxsize=1024)
def is_reserved_relation(relation: str) -> bool:
    prefix, colon, _ = relation.partition(":")
    return colon == ":" and _is_own(prefix, "stigmem")


def is_reserved_entity(entity: str) -> bool:
    """`stigmem:` names that are no URIs: the node speaks of itself under them."""
    if entity.startswith(_SCHEME):
        return False
    prefix, colon, _ = entity.partition(":")
    return colon == ":" and _is_own(prefix, "stigmem") and is_informal(entity)


@lru_cache(maxsize=1024)
def is_reserved_source(source: str) -> bool:
    return _is_own(source, RESERVED_SOURCE)


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID in its usual spelling, in either case."""
    return _UUID.fullmatch(text) is not None


def uuid_bytes(text: str) -> bytes | None:
    """The 16 bytes of a UUID; None for what is none."""
    return bytes.fromhex(text.replace("-", "")) if is_uuid(text) else None


def uuids_bytes(texts: list[str]) -> list[bytes]:
    """The 16 bytes of each of these UUIDs. Raises ValueError where one is none."""
    joined = "".join(texts)
    if set(map(len, texts)) != {36} or not _UUIDS.fullmatch(joined):
        raise ValueError("not UUIDs")
    raw = bytes.fromhex(joined.replace("-", ""))
    return [raw[start : start + 16] for start in range(0, len(raw), 16)]


def uuid_text(raw: bytes) -> str:
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def named_uuid(namespace: bytes, name: str) -> bytes:
    """A UUIDv5 (RFC 9562): the same name in the same namespace is the same UUID everywhere.

    Not by the standard library's module, which also draws random ones: what folds may not reach those.
    """
    raw = bytearray(sha1(namespace + name.encode(), usedforsecurity=False).digest()[:16])
    raw[6], raw[8] = raw[6] & 0x0F | 0x50, raw[8] & 0x3F | 0x80
    return bytes(raw)


def check_plain(text: str, field: str) -> None:
    """InvalidField where a text that people read as a name holds what they cannot see."""
    if _CONTROLS.search(text):
        raise InvalidField(f"{field}: control and invisible characters are refused")


def check_visible(text: str, field: str) -> None:
    """InvalidField where a name that is new here would look like another: `check_plain`, and all that shows nothing.

    Not for what folds: names that were taken in before stay what they are.
    """
    if _INVISIBLE.search(text):
        raise InvalidField(f"{field}: control and invisible characters are refused")


def _is_own(text: str, reserved: str) -> bool:
    # Informal names keep their case and inner spaces: `Stigmem :x` is another text, which a reader takes for ours.
    return "".join(text.split()).lower() == reserved


def _normal_authority(text: str) -> str:
    # Before lower(): it turns the Kelvin sign into a `k`, a look-alike into the real authority.
    if not text.isascii():
        raise InvalidUri("an authority holds only ASCII characters")
    authority = text.lower()
    if not _NORMAL_AUTHORITY.fullmatch(authority):
        raise InvalidUri("an authority is letters, digits, '-' and '.', and optionally a port")
    return authority


def _normal_segment(text: str) -> str:
    segment = _TO_RESPELL.sub(_respelled, text)
    if not segment:
        raise InvalidUri("an empty segment")
    # After decoding, so that `%2e%2e` does not climb out of its owner's names either.
    if segment in (".", ".."):
        raise InvalidUri("a dot segment")
    return segment


def _respelled(match: re.Match[str]) -> str:
    token, hex_digits = match[0], match[1]
    if hex_digits is not None:
        character = chr(int(hex_digits, 16))
        return character.lower() if _UNRESERVED.fullmatch(character) else token.upper()
    if token == "%":
        raise InvalidUri("a '%' without two hex digits")
    if token.isspace():
        return "-"
    if token.isascii() and token.isalpha():
        return token.lower()
    return "".join(f"%{byte:02X}" for byte in token.encode())
