"""An event as it stands in the log: signed header, leaf hash, and salted items (PROTOCOL §10.1, docs/log-format.md).

Always: header bytes are made once, here, when the entry is signed; everything else reads the stored bytes.
Always: an opened entry's items match the commitments in its header.

Does not check chain, signature or order against other entries (see `replay/verify.py`) and does not store anything.
"""

from functools import lru_cache
from hashlib import sha256

import msgspec
from msgspec import Struct

from node.errors import LogDamaged
from node.events import EVENT_TYPES
from node.events.event import Actor, Event, event_of, items_of, type_of
from node.events.tree import leaf_hash
from node.keys import Signer, verify
from node.times import format_ms, parse_rfc3339

LAYOUT_VERSION = 1
SIGNED_PREFIX = b"stigmem-event/v1\n"
SIGNATURE_BYTES = 64
SALT_BYTES = 16
FIRST_PREV = bytes(32)


class Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The signed header, member by member in the order of its bytes."""

    v: int
    offset: int
    prev: str
    hlc: str
    at: str
    type: str
    key_id: str
    items: tuple[str, ...]


class Item(Struct, frozen=True):
    """A part of an event's data as it is committed to: 16 random bytes and the content."""

    salt: bytes
    content: bytes

    def commitment(self) -> str:
        return sha256(self.salt + self.content).hexdigest()


class Entry(Struct, frozen=True, kw_only=True):
    """One entry of a log. `stored` is header ‖ signature, `leaf` its hash; `at_ms` is the node's wall clock in epoch ms.

    An item that was erased is None, and in the event ERASED stands for what it held.
    """

    offset: int
    hlc: str
    at_ms: int
    type: str
    public_key: bytes
    stored: bytes
    leaf: bytes
    items: tuple[Item | None, ...]
    actor: Actor
    event: Event

    @property
    def stored_bytes(self) -> int:
        """What the log keeps of it, items included, but for keys and salts."""
        return sum([0 if item is None else len(item.content) for item in self.items], len(self.stored))


def sign_entry(
    event: Event, actor: Actor, *, offset: int, prev: bytes, hlc: str, at_ms: int, signer: Signer, salts: bytes
) -> Entry:
    """Make the entry of an event. `salts` holds at least 16 random bytes per item (`salt_bytes_for`)."""
    contents = [_actor_bytes(actor), *items_of(event)]
    items = tuple(Item(salts[i * 16 : i * 16 + 16], content) for i, content in enumerate(contents))
    header = _header_bytes(event, items, offset=offset, prev=prev, hlc=hlc, at=format_ms(at_ms), key_id=signer.key_id)
    stored = header + signer.sign(SIGNED_PREFIX + header)
    return Entry(
        offset=offset,
        hlc=hlc,
        at_ms=at_ms,
        type=type_of(event),
        public_key=signer.public_key,
        stored=stored,
        leaf=leaf_hash(stored),
        items=items,
        actor=actor,
        event=event,
    )


def salt_bytes_for(event: Event) -> int:
    """How many random bytes the entry of this event takes."""
    many = getattr(event, event.parts[-1]) if event.parts else ()
    return SALT_BYTES * (2 + len(event.parts) + (len(many) if isinstance(many, tuple) else 0))


def open_header(stored: bytes) -> Header:
    """The header of a stored entry. Raises LogDamaged where the bytes are not one."""
    try:
        header = _header_decoder.decode(stored[:-SIGNATURE_BYTES])
    except ValueError as error:  # MsgspecError is one; bytes that are not UTF-8 raise another
        raise LogDamaged(f"the header cannot be read: {error}") from error
    if header.v != LAYOUT_VERSION:
        raise LogDamaged(f"the header has layout version {header.v}, this node reads {LAYOUT_VERSION}")
    return header


def is_signed_by(stored: bytes, public_key: bytes) -> bool:
    """Whether the entry's signature is that key's."""
    return verify(public_key, SIGNED_PREFIX + stored[:-SIGNATURE_BYTES], stored[-SIGNATURE_BYTES:])


def open_entry(stored: bytes, items: tuple[Item | None, ...], public_key: bytes) -> Entry:
    """The entry from what is stored of it. Raises LogDamaged where items and commitments differ or do not decode."""
    return entry_of(open_header(stored), stored, items, public_key)


def entry_of(header: Header, stored: bytes, items: tuple[Item | None, ...], public_key: bytes) -> Entry:
    """The same where the header has been opened already."""
    actor, event = open_items(header, [None if item is None else item.salt + item.content for item in items])
    try:
        at_ms = parse_rfc3339(header.at)
    except ValueError as error:
        raise LogDamaged(f"at {header.at!r} is no time: {error}") from error
    return Entry(
        offset=header.offset,
        hlc=header.hlc,
        at_ms=at_ms,
        type=header.type,
        public_key=public_key,
        stored=stored,
        leaf=leaf_hash(stored),
        items=items,
        actor=actor,
        event=event,
    )


def open_items(header: Header, committed: list[bytes | None]) -> tuple[Actor, Event]:
    """What an entry's items, each salt ‖ content or None where it was erased, say. Raises LogDamaged where they are not those that
    its header commits to, or do not decode.
    """
    if len(committed) != len(header.items):
        raise LogDamaged(f"{len(committed)} items are stored, the header commits to {len(header.items)}")
    for index, (said, item) in enumerate(zip(header.items, committed, strict=True)):
        if item is not None and sha256(item).hexdigest() != said:
            raise LogDamaged(f"item {index} does not match its commitment")
    return read_items(header, committed)


def read_items(header: Header, committed: list[bytes | None]) -> tuple[Actor, Event]:
    """What items say that are known to be those that the header commits to. Raises LogDamaged where they do not decode."""
    event_type = EVENT_TYPES.get(header.type)
    if event_type is None:
        raise LogDamaged(f"the event type {header.type!r} is not known to this version")
    try:
        actor, *contents = [None if item is None else item[SALT_BYTES:] for item in committed]
        if actor is None:
            raise LogDamaged("its actor was erased, which no tombstone does")
        return actor_of(actor), event_of(event_type, contents)
    except ValueError as error:
        raise LogDamaged(f"the items of {header.type} cannot be read: {error}") from error


_header_decoder = msgspec.json.Decoder(Header)
_actor_decoder = msgspec.json.Decoder(Actor)
_encode_actor = msgspec.json.Encoder().encode


# One operator or agent writes many entries in a row.
@lru_cache(maxsize=256)
def _actor_bytes(actor: Actor) -> bytes:
    return _encode_actor(actor)


@lru_cache(maxsize=256)
def actor_of(content: bytes) -> Actor:
    """The actor in the content of item 0. Raises ValueError where it is none."""
    return _actor_decoder.decode(content)


def _header_bytes(
    event: Event, items: tuple[Item, ...], *, offset: int, prev: bytes, hlc: str, at: str, key_id: str
) -> bytes:
    # Every member is digits, hex or plain ASCII, so no escaping can be needed and the bytes are these alone.
    commitments = '","'.join([item.commitment() for item in items])
    return (
        f'{{"v":{LAYOUT_VERSION},"offset":{offset},"prev":"{prev.hex()}","hlc":"{hlc}","at":"{at}",'
        f'"type":"{type_of(event)}","key_id":"{key_id}","items":["{commitments}"]}}'
    ).encode("ascii")
