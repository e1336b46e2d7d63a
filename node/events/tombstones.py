"""Tombstones: an entity is gone from every read, and what the log held of it is erased (PROTOCOL §12, §15).

Always: which items are erased is said by an event behind them, place by place, so whoever checks a log can tell it from damage.
"""

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from msgspec import Struct

from node.canonical import canonical_json
from node.events.event import Event
from node.events.facts import Scope

# `*` is every scope.
TombstoneScope = Literal["*", "local", "team", "company", "public"]
# In place of an index and a day: the item holds no fact that was counted.
_NONE = 2**32 - 1
_ERASED_PLACE = struct.Struct(">QIII")


class Tombstone(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node signed: that an entity, by its name in normal form, is gone in a scope. `signature` is base64url.

    The signature is over the canonical JSON of the rest, as reference nodes make it: the reason is not among it (INTEROP §11).
    """

    id: str
    entity_uri: str
    scope: TombstoneScope
    legal_hold: bool
    created_at: str
    signed_by: str
    key_id: str
    signature: str


class Revocation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That a tombstone counts no more; signed like it, over `{entity_uri, id, key_id, revoked_at, signed_by}`."""

    revoked_at: str
    key_id: str
    signature: str


class EntityTombstoned(Event, tag="entity.tombstoned.1"):
    """An operator had an entity removed from every read. Without a legal hold its erasure follows, in an event of its own.

    Peers that exchange one of `shared_scopes` are told of it: those of the facts that they may have been given, none of others, so
    that the name of what never left this node does not leave it by way of its tombstone.
    """

    tombstone: Tombstone
    reason: str
    shared_scopes: tuple[Scope, ...]


class EntityErased(Event, tag="entity.erased.1"):
    """All that the log held of a tombstoned entity is erased: the items at `places` (see `packed_places`).

    `organisations` are those about whose held facts moderators had decided, and whether the last decision admitted them: that
    outlives the facts.
    """

    parts: ClassVar[tuple[str, ...]] = ("places",)
    tombstone_id: str
    entity_uri: str
    organisations: tuple[tuple[str, bool], ...]
    places: bytes


class HoldLifted(Event, tag="tombstone.hold_lifted.1"):
    """The legal hold on a tombstone is over: what it hides is erased next."""

    tombstone_id: str
    entity_uri: str
    reason: str


class TombstoneRevoked(Event, tag="tombstone.revoked.1"):
    """A tombstone of this node's counts no more: what was not erased is read again, and the entity may be written about."""

    tombstone_id: str
    entity_uri: str
    reason: str
    revocation: Revocation


class PeerTombstoned(Event, tag="peer.tombstoned.1"):
    """A peer showed a tombstone of its own, or that it revoked one. It reaches the facts whose origin is that peer, no others."""

    node_id: str
    tombstone: Tombstone
    revocation: Revocation | None


class TombstonesServed(Event, tag="tombstones.served.1"):
    """A peer asked which entities are tombstoned here. `forget_ms` (epoch) is when its nonce may go."""

    node_id: str
    nonce: str
    forget_ms: int


class ErasedPlace(Struct, frozen=True):
    """An item that is erased: `item` counts from the actor's, which is 0. Of one that held a fact also the fact's index within its
    event; and, where the fact had counted for or against its source, the day (since the epoch) on which it had.
    """

    offset: int
    item: int
    index: int | None
    day: int | None


def packed_places(places: Iterable[ErasedPlace]) -> bytes:
    """Places as an event lists them, in base64: 20 bytes each, big-endian: offset 8, item 4, index 4, day 4; all ones for none."""
    packed = b"".join(
        _ERASED_PLACE.pack(
            place.offset,
            place.item,
            _NONE if place.index is None else place.index,
            _NONE if place.day is None else place.day,
        )
        for place in places
    )
    return b64encode(packed)


def places_in(packed: bytes) -> Iterator[ErasedPlace]:
    """The inverse. Raises ValueError where the bytes are no list of places."""
    raw = b64decode(packed, validate=True)
    if len(raw) % _ERASED_PLACE.size:
        raise ValueError("the list of erased places is cut off")
    for offset, item, index, day in _ERASED_PLACE.iter_unpack(raw):
        yield ErasedPlace(offset, item, None if index == _NONE else index, None if day == _NONE else day)


def signed_tombstone(tombstone: Tombstone) -> bytes:
    """What a tombstone's signature is over."""
    return canonical_json(
        {
            "created_at": tombstone.created_at,
            "entity_uri": tombstone.entity_uri,
            "id": tombstone.id,
            "key_id": tombstone.key_id,
            "legal_hold": tombstone.legal_hold,
            "scope": tombstone.scope,
            "signed_by": tombstone.signed_by,
        }
    )


def signed_revocation(tombstone: Tombstone, revocation: Revocation) -> bytes:
    """What a revocation's signature is over."""
    return canonical_json(
        {
            "entity_uri": tombstone.entity_uri,
            "id": tombstone.id,
            "key_id": revocation.key_id,
            "revoked_at": revocation.revoked_at,
            "signed_by": tombstone.signed_by,
        }
    )


def reaches(scope: TombstoneScope, fact_scope: Scope) -> bool:
    """Whether a tombstone of a scope is about facts of another."""
    return scope in ("*", fact_scope)
