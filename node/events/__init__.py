"""Events, their encoding, and the append-only log that holds them.

`EVENT_TYPES` is the one list of all event types; a new type joins here.
"""

from node.events import api_keys, conflicts, facts, gardens, idempotency, identity, peers, tokens, tombstones
from node.events.event import Event, type_of

EVENT_TYPES: dict[str, type[Event]] = {
    type_of(event): event
    for event in (
        identity.NodeCreated,
        identity.AdminKeyCreated,
        identity.ManifestPublished,
        identity.SettingsChanged,
        identity.RequestRefused,
        identity.RefusalsCounted,
        identity.NodeRestored,
        identity.RestoreConfirmed,
        gardens.GardenCreated,
        gardens.GardenDeleted,
        gardens.FactQuarantined,
        gardens.FactPromoted,
        gardens.FactRejected,
        gardens.GardenMemberSet,
        gardens.GardenMemberRemoved,
        facts.FactAsserted,
        facts.FactsSealed,
        conflicts.ConflictResolved,
        tokens.CapabilityIssued,
        tokens.CapabilityRevoked,
        tokens.CapabilityAccepted,
        peers.PeerRegistered,
        peers.PeerVerified,
        peers.PeerStatusSet,
        peers.PeerChanged,
        peers.PageServed,
        peers.BatchReceived,
        peers.ManifestIntroduced,
        peers.PushReceived,
        peers.AttestationSigned,
        peers.ExchangeRefused,
        peers.PeerTermsProposed,
        peers.PeerTermsApproved,
        peers.PeerCheckpointSeen,
        peers.PeerLogForked,
        peers.PeerCheckpointAccepted,
        peers.CheckpointCosigned,
        api_keys.ApiKeyCreated,
        api_keys.ApiKeyRevoked,
        idempotency.IdempotencyKeyTaken,
        identity.TrustSettingsChanged,
        tombstones.EntityTombstoned,
        tombstones.EntityErased,
        tombstones.HoldLifted,
        tombstones.TombstoneRevoked,
        tombstones.PeerTombstoned,
        tombstones.TombstonesServed,
        peers.PeerPinned,
        peers.PeerTlsFailed,
        identity.KeyRotated,
        peers.PeerKeyForked,
    )
}
