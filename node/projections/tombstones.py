"""Tombstones, this node's and its peers': what each says, and how far it has come (PROTOCOL §15).

And where fact bodies about an entity were countersigned for peers, which no fact says.

Always: what a tombstone hides is in the facts' own rows (see `facts.py`); a peer's is kept whatever it reaches.
"""

from collections.abc import Iterator
from typing import ClassVar

from msgspec import Struct, structs

from node.events.entry import Entry
from node.events.event import Event
from node.events.facts import Scope
from node.events.peers import AttestationSigned
from node.events.subjects import entities_of
from node.events.tombstones import (
    EntityErased,
    EntityTombstoned,
    HoldLifted,
    PeerTombstoned,
    Revocation,
    Tombstone,
    TombstoneRevoked,
    places_in,
)
from node.projections.base import LAST_PLACE, Place, Projection, TableSpec, place_key, place_of, text_key
from node.times import format_ms


class Grave(Struct, frozen=True, array_like=True):
    """A tombstone of this node's, and where it was last `changed` for peers. Times are RFC 3339; `held` says whether a legal hold
    is on it now, `items` how many were erased.
    """

    place: Place
    changed: Place
    tombstone: Tombstone
    reason: str
    shared_scopes: tuple[Scope, ...]
    created_by: str | None
    held: bool
    hold_lifted_at: str | None
    erased_at: str | None
    items: int
    revocation: Revocation | None
    revocation_reason: str | None

    @property
    def is_to_be_erased(self) -> bool:
        """Whether what it hides is to be erased and is not yet, but for holds of others: only what is about every scope is."""
        is_over = self.held or self.erased_at is not None or self.revocation is not None
        return self.tombstone.scope == "*" and not is_over


def grave_of(entry: Entry, event: EntityTombstoned) -> Grave:
    """What a tombstone is as it is made."""
    place, stone = (entry.offset, 0), event.tombstone
    return Grave(
        place=place,
        changed=place,
        tombstone=stone,
        reason=event.reason,
        shared_scopes=event.shared_scopes,
        created_by=entry.actor.principal,
        held=stone.legal_hold,
        hold_lifted_at=None,
        erased_at=None,
        items=0,
        revocation=None,
        revocation_reason=None,
    )


class PeersGrave(Struct, frozen=True, array_like=True):
    """A tombstone that a peer showed, and, where it did, how it revoked it."""

    place: Place
    node_id: str
    tombstone: Tombstone
    revocation: Revocation | None
    seen_at: str


_BY_ID = TableSpec("tombstones/by_id", Grave, hashed=((0, 16),))
_LISTED = TableSpec("tombstones/listed", bytes)
_OF_PEERS = TableSpec("tombstones/of_peers", PeersGrave, hashed=((0, 32),))
_OF_PEERS_LISTED = TableSpec("tombstones/of_peers_listed", bytes)
_ATTESTED = TableSpec("tombstones/attested", bytes, hashed=((0, 16),))
# Of the items of an entry that records a signature for a peer, the one that holds the fact body.
ATTESTED_ITEM = 2


class Tombstones(Projection):
    name: ClassVar[str] = "tombstones"
    version: ClassVar[int] = 1
    events: ClassVar[tuple[type[Event], ...]] = (
        EntityTombstoned,
        EntityErased,
        HoldLifted,
        TombstoneRevoked,
        PeerTombstoned,
        AttestationSigned,
    )
    tables: ClassVar[tuple[TableSpec, ...]] = (_BY_ID, _LISTED, _OF_PEERS, _OF_PEERS_LISTED, _ATTESTED)

    def by_id(self, tombstone_id: str) -> Grave | None:
        return self.table(_BY_ID).get(text_key(tombstone_id))

    def newest_first(self, before: Place = LAST_PLACE) -> Iterator[Grave]:
        """This node's own, last first."""
        for _, key in self.table(_LISTED).scan_back(b"", before=place_key(before)):
            yield self.table(_BY_ID).get(key)

    def held_entities(self) -> set[str]:
        """The entities, in normal form, on which a legal hold is: nothing of them is erased, whichever tombstone asks for it."""
        return {grave.tombstone.entity_uri for grave in self.newest_first() if grave.held and grave.revocation is None}

    def of_peer(self, node_id: str, tombstone_id: str) -> PeersGrave | None:
        return self.table(_OF_PEERS).get(text_key(node_id) + text_key(tombstone_id))

    def of_peers(self, before: Place = LAST_PLACE) -> Iterator[PeersGrave]:
        """What peers showed, by when they first did, last first."""
        for _, key in self.table(_OF_PEERS_LISTED).scan_back(b"", before=place_key(before)):
            yield self.table(_OF_PEERS).get(key)

    def attested(self, entity: str) -> Iterator[Place]:
        """The items that hold fact bodies about an entity, in normal form, which this node countersigned."""
        prefix = text_key(entity)
        for key, _ in self.table(_ATTESTED).scan(prefix):
            yield place_of(key)

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case EntityTombstoned() as event:
                self._begin(entry, event)
            case HoldLifted(tombstone_id=tombstone_id):
                self._change(tombstone_id, held=False, hold_lifted_at=format_ms(entry.at_ms))
            case EntityErased(tombstone_id=tombstone_id, entity_uri=entity, places=places):
                self._change(tombstone_id, erased_at=format_ms(entry.at_ms), items=sum(1 for _ in places_in(places)))
                for key, _ in list(self.table(_ATTESTED).scan(text_key(entity))):
                    self.table(_ATTESTED).delete(key)
            case TombstoneRevoked(tombstone_id=tombstone_id, revocation=revocation, reason=reason):
                here = (entry.offset, 0)
                self._change(tombstone_id, changed=here, revocation=revocation, revocation_reason=reason)
            case PeerTombstoned() as shown:
                self._take(entry, shown)
            case AttestationSigned() as signed:
                self._index_attested(entry, signed)
            case _:
                pass  # no other event is about tombstones

    def _begin(self, entry: Entry, event: EntityTombstoned) -> None:
        grave, key = grave_of(entry, event), text_key(event.tombstone.id)
        self.table(_BY_ID).put(key, grave)
        self.table(_LISTED).put(place_key(grave.place), key)

    def _change(self, tombstone_id: str, **changes: object) -> None:
        grave = self.by_id(tombstone_id)
        if grave is not None:
            self.table(_BY_ID).put(text_key(tombstone_id), structs.replace(grave, **changes))

    def _take(self, entry: Entry, shown: PeerTombstoned) -> None:
        key = text_key(shown.node_id) + text_key(shown.tombstone.id)
        known = self.table(_OF_PEERS).get(key)
        place = (entry.offset, 0) if known is None else known.place
        seen_at = format_ms(entry.at_ms) if known is None else known.seen_at
        self.table(_OF_PEERS).put(key, PeersGrave(place, shown.node_id, shown.tombstone, shown.revocation, seen_at))
        self.table(_OF_PEERS_LISTED).put(place_key(place), key)

    def _index_attested(self, entry: Entry, signed: AttestationSigned) -> None:
        entity = entities_of(signed)[-1]
        if entity is not None:
            self.table(_ATTESTED).put(text_key(entity) + place_key((entry.offset, ATTESTED_ITEM)), b"")
