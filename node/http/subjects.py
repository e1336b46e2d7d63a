"""What an event is about, as the audit log names it: a kind and an id, in the words of docs/audit.md.

Always: one rule for each event type; what an event says beyond that is left to `stigmem replay audit`, which has the whole log.
"""

from collections.abc import Callable

from msgspec import Struct

from node.events.api_keys import ApiKeyCreated, ApiKeyRevoked
from node.events.conflicts import ConflictResolved
from node.events.event import Erased, Event
from node.events.facts import FactAsserted, FactsSealed
from node.events.gardens import (
    FactPromoted,
    FactQuarantined,
    FactRejected,
    GardenCreated,
    GardenDeleted,
    GardenMemberRemoved,
    GardenMemberSet,
)
from node.events.idempotency import IdempotencyKeyTaken
from node.events.identity import (
    AdminKeyCreated,
    KeyRotated,
    ManifestPublished,
    NodeCreated,
    NodeRestored,
    RefusalsCounted,
    RequestRefused,
    RestoreConfirmed,
    SettingsChanged,
    TrustSettingsChanged,
)
from node.events.peers import (
    AttestationSigned,
    BatchReceived,
    CheckpointCosigned,
    ExchangeRefused,
    ManifestIntroduced,
    PageServed,
    PeerChanged,
    PeerCheckpointAccepted,
    PeerCheckpointSeen,
    PeerKeyForked,
    PeerLogForked,
    PeerPinned,
    PeerRegistered,
    PeerStatusSet,
    PeerTermsApproved,
    PeerTermsProposed,
    PeerTlsFailed,
    PeerVerified,
    PushReceived,
)
from node.events.rotations import read_rotation
from node.events.tokens import CapabilityAccepted, CapabilityIssued, CapabilityRevoked
from node.events.tombstones import (
    EntityErased,
    EntityTombstoned,
    HoldLifted,
    PeerTombstoned,
    TombstoneRevoked,
    TombstonesServed,
)
from node.keys import key_id_of


class Subject(Struct, frozen=True):
    kind: str
    id: str


def subject_of(event: Event) -> Subject:
    kind, id_of = _SUBJECTS[type(event)]
    return Subject(kind, id_of(event))


Rule = tuple[str, Callable[[Event], str]]
_PEER: Rule = ("peer", lambda event: event.node_id)
_GARDEN: Rule = ("garden", lambda event: event.garden_id)
_MODERATED: Rule = ("fact", lambda event: event.fact_id)
_ENTOMBED: Rule = ("entity", lambda event: event.entity_uri)
_FACT: Rule = ("fact", lambda event: event.fact.id)

_SUBJECTS: dict[type[Event], Rule] = {
    NodeCreated: ("node", lambda event: event.node_id),
    NodeRestored: ("node", lambda event: event.origin),
    RestoreConfirmed: ("node", lambda event: str(event.offset)),
    KeyRotated: ("node_key", lambda event: key_id_of(read_rotation(event.rotation).new_public_key)),
    AdminKeyCreated: ("admin_key", lambda event: "admin"),
    ApiKeyCreated: ("api_key", lambda event: event.grant.key_id),
    ApiKeyRevoked: ("api_key", lambda event: event.key_id),
    ManifestPublished: ("manifest", lambda event: event.manifest_id),
    SettingsChanged: ("settings", lambda event: "settings"),
    TrustSettingsChanged: ("settings", lambda event: "settings"),
    RequestRefused: ("request", lambda event: event.subject),
    IdempotencyKeyTaken: ("request", lambda event: event.route),
    RefusalsCounted: ("principal", lambda event: event.principal),
    GardenCreated: ("garden", lambda event: event.id),
    GardenDeleted: _GARDEN,
    GardenMemberSet: _GARDEN,
    GardenMemberRemoved: _GARDEN,
    FactQuarantined: _FACT,
    FactPromoted: _MODERATED,
    FactRejected: _MODERATED,
    FactAsserted: _FACT,
    FactsSealed: ("node", lambda event: event.origin),
    ConflictResolved: ("conflict", lambda event: event.conflict_id),
    CapabilityIssued: ("token", lambda event: event.grant.token_id),
    CapabilityRevoked: ("token", lambda event: event.revocation.token_id),
    CapabilityAccepted: ("token", lambda event: event.token_id),
    PeerRegistered: _PEER,
    PeerVerified: _PEER,
    PeerStatusSet: _PEER,
    PeerChanged: _PEER,
    PeerPinned: _PEER,
    PeerTlsFailed: _PEER,
    PeerTermsProposed: _PEER,
    PeerTermsApproved: _PEER,
    PeerCheckpointSeen: _PEER,
    PeerLogForked: _PEER,
    PeerKeyForked: _PEER,
    PeerCheckpointAccepted: _PEER,
    PageServed: _PEER,
    BatchReceived: _PEER,
    PushReceived: _PEER,
    ExchangeRefused: _PEER,
    ManifestIntroduced: ("peer", lambda event: event.entity_uri),
    AttestationSigned: ("token", lambda event: event.token_id),
    CheckpointCosigned: ("checkpoint", lambda event: str(event.size)),
    EntityTombstoned: ("entity", lambda event: event.tombstone.entity_uri),
    EntityErased: _ENTOMBED,
    HoldLifted: _ENTOMBED,
    TombstoneRevoked: _ENTOMBED,
    PeerTombstoned: ("entity", lambda event: event.tombstone.entity_uri),
    TombstonesServed: _PEER,
    # Of an entry of which only the actor is left nobody can say any more what it was about.
    Erased: ("entity", lambda event: ""),
}
