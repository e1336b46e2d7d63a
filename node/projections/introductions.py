"""Manifests of organisations that are no peers of ours, as relays handed them over (PROTOCOL §5.5).

Always: an introduction is kept per introducer and is never a pin: it goes when that organisation is registered and verified, and
when its introducer is a peer no longer. Where introducers name different keys, none of them counts.
"""

from typing import ClassVar

from msgspec import Struct

from node.canonical import b64url_decode
from node.events.entry import Entry
from node.events.event import Event
from node.events.peers import ManifestIntroduced, PeerStatusSet, PeerVerified
from node.events.rotations import KeyChain, chain_of, rotations_in
from node.projections.base import Projection, TableSpec, text_key
from node.projections.manifest_dates import dates_of


class Introduction(Struct, frozen=True, array_like=True):
    """What one introducer says of an organisation; `expires_ms` (epoch) is its manifest's end, `keys` all it told, oldest first."""

    entity_uri: str
    introducer: str
    public_key: str
    expires_ms: int
    manifest: bytes
    keys: KeyChain


_BY_ENTITY = TableSpec("introductions/by_entity", Introduction, hashed=((0, 32),))
_BY_INTRODUCER = TableSpec("introductions/by_introducer", bytes, hashed=((0, 32),))


class Introductions(Projection):
    name: ClassVar[str] = "introductions"
    version: ClassVar[int] = 4
    events: ClassVar[tuple[type[Event], ...]] = (ManifestIntroduced, PeerStatusSet, PeerVerified)
    tables: ClassVar[tuple[TableSpec, ...]] = (_BY_ENTITY, _BY_INTRODUCER)

    def of(self, entity_uri: str) -> list[Introduction]:
        """All that is known of an organisation, one row per introducer."""
        return [row for _, row in self.table(_BY_ENTITY).scan(text_key(entity_uri))]

    def by(self, entity_uri: str, introducer: str) -> Introduction | None:
        return self.table(_BY_ENTITY).get(text_key(entity_uri) + text_key(introducer))

    def count_of(self, introducer: str, *, at_most: int) -> int:
        """How many organisations somebody has introduced; stops counting at `at_most`."""
        count = 0
        for _ in self.table(_BY_INTRODUCER).scan(text_key(introducer)):
            count += 1
            if count == at_most:
                break
        return count

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case ManifestIntroduced() as introduced:
                self._add(introduced)
            case PeerVerified(node_id=node_id):
                # Not before: whoever brings a name to us is not yet known to own it.
                for row in self.of(node_id):
                    self._remove(row)
            case PeerStatusSet(node_id=node_id, status="revoked"):
                for key, _ in list(self.table(_BY_INTRODUCER).scan(text_key(node_id))):
                    row = self.table(_BY_ENTITY).get(key[16:] + key[:16])
                    if row is not None:
                        self._remove(row)
            case _:
                pass  # no other event introduces anybody, or ends it

    def _add(self, introduced: ManifestIntroduced) -> None:
        entity, introducer = text_key(introduced.entity_uri), text_key(introduced.introducer)
        held = self.table(_BY_ENTITY).get(entity + introducer)
        row = Introduction(
            introduced.entity_uri,
            introduced.introducer,
            introduced.public_key,
            dates_of(introduced.manifest)[1],
            introduced.manifest,
            chain_of(
                introduced.entity_uri,
                b64url_decode(introduced.public_key),
                rotations_in(introduced.manifest),
                () if held is None else held.keys,
            ),
        )
        self.table(_BY_ENTITY).put(entity + introducer, row)
        self.table(_BY_INTRODUCER).put(introducer + entity, b"")

    def _remove(self, row: Introduction) -> None:
        entity, introducer = text_key(row.entity_uri), text_key(row.introducer)
        self.table(_BY_ENTITY).delete(entity + introducer)
        self.table(_BY_INTRODUCER).delete(introducer + entity)
