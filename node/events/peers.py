"""Peers, and every exchange with one (PROTOCOL §5, §9)."""

from typing import ClassVar, Literal

from msgspec import Struct

from node.events.event import Event
from node.events.facts import Fact, Judgement, Scope

PeerStatus = Literal["active", "pending_verification", "rejected", "revoked"]


class PeerRegistered(Event, tag="peer.registered.1"):
    """A peer was named, or named again with other terms. `declared_key` and `declared_at` stand for a signed declaration."""

    peer_id: str
    node_id: str
    node_url: str
    allowed_scopes: tuple[Scope, ...]
    declared_key: str | None
    declared_at: str | None


class PeerVerified(Event, tag="peer.verified.1"):
    """The peer's documents were fetched and checked; from here on its key is pinned.

    `manifest` is its canonical JSON, empty for a node that publishes none; `checkpoint` the note its proof rested on, or None.
    """

    parts: ClassVar[tuple[str, ...]] = ("manifest",)
    peer_id: str
    node_id: str
    public_key: str
    is_manifest_proven: bool
    checkpoint: str | None
    warnings: tuple[str, ...]
    manifest: bytes


class PeerStatusSet(Event, tag="peer.status_set.1"):
    """`reason` says why in one code, `detail` in words; both empty where there is nothing to say."""

    peer_id: str
    node_id: str
    status: PeerStatus
    reason: str
    detail: str


class PeerChanged(Event, tag="peer.changed.1"):
    """An operator changed what is exchanged with a peer."""

    peer_id: str
    node_id: str
    allowed_scopes: tuple[Scope, ...]
    delegated_sources: tuple[str, ...]


class PeerTermsProposed(Event, tag="peer.terms_proposed.1"):
    """A repeated declaration asks for more scopes, or names another URL: both wait for an admin (PROTOCOL §5.1)."""

    peer_id: str
    node_id: str
    node_url: str
    allowed_scopes: tuple[Scope, ...]
    declared_key: str
    declared_at: str


class PeerTermsApproved(Event, tag="peer.terms_approved.1"):
    """An admin approved what was proposed last."""

    peer_id: str
    node_id: str


class PeerCheckpointSeen(Event, tag="peer.checkpoint_seen.1"):
    """The peer showed a checkpoint that goes on from the one held before: from here on it is measured against this note."""

    node_id: str
    checkpoint: str


class PeerLogForked(Event, tag="peer.log_forked.1"):
    """The peer signed two logs (PROTOCOL §10.3): `held` and `shown` are both notes, under its pinned key.

    Where `held` is of the smaller size, `hashes` (hex) lead to the root in `shown`, and to another than the one in `held`: a
    consistency proof, or with `leaf_hash` the inclusion proof of the last leaf of that size. Of one size they need no proof.
    """

    peer_id: str
    node_id: str
    held: str
    shown: str
    leaf_hash: str | None
    hashes: tuple[str, ...]


class PeerKeyForked(Event, tag="peer.key_forked.1"):
    """One key of the peer's named two successors (PROTOCOL §11): `held` and `shown` are the rotations, both signed by that key."""

    parts: ClassVar[tuple[str, ...]] = ("held", "shown")
    peer_id: str
    node_id: str
    held: bytes
    shown: bytes


class PeerCheckpointAccepted(Event, tag="peer.checkpoint_accepted.1"):
    """An admin took the line that a forked log showed: `checkpoint` is held from here on, and all is read again."""

    peer_id: str
    node_id: str
    checkpoint: str


class CheckpointCosigned(Event, tag="checkpoint.cosigned.1"):
    """A peer cosigned this log's checkpoint of `size` entries; `cosignature` is its signature line (C2SP tlog-cosignature)."""

    node_id: str
    nonce: str
    forget_ms: int
    size: int
    cosignature: str


class PageServed(Event, tag="page.served.1"):
    """A peer asked for a page of facts behind `cursor` and got it. `forget_ms` (epoch) is when its nonce may go."""

    node_id: str
    nonce: str
    forget_ms: int
    scope: str | None
    cursor: str | None
    limit: int


class Receipt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fact that a peer brought, and what became of it: held in `quarantine_garden_id` for `quarantine_reason`, or accepted."""

    fact: Fact
    judgement: Judgement | None
    quarantine_garden_id: str | None
    quarantine_reason: str | None


class BatchRefusal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fact that a peer brought and that was not taken: `event_type` and `reason` as PROTOCOL §5.5 audits it."""

    fact_id: str
    source: str
    event_type: Literal["scope_violation", "rejected_fact"]
    reason: str


class Receipts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The refused facts of a page or push, beside the taken ones, each of which is an item of its own."""

    refused: tuple[BatchRefusal, ...]


class BatchReceived(Event, tag="batch.received.1"):
    """What one page of a peer brought, with the cursor behind it: facts and cursor are one event (PROTOCOL §5.3)."""

    parts: ClassVar[tuple[str, ...]] = ("outcome", "receipts")
    node_id: str
    cursor: str
    known: int
    outcome: Receipts
    receipts: tuple[Receipt, ...]


class PushReceived(Event, tag="push.received.1"):
    """What a peer brought by itself (PROTOCOL §5.4): a page without a cursor, and the nonce of the token it came with."""

    parts: ClassVar[tuple[str, ...]] = ("outcome", "receipts")
    node_id: str
    nonce: str
    forget_ms: int
    known: int
    outcome: Receipts
    receipts: tuple[Receipt, ...]


class AttestationSigned(Event, tag="attestation.signed.1"):
    """This node countersigned a fact body for a peer (PROTOCOL §9); `fact_body` is the bytes that were signed."""

    parts: ClassVar[tuple[str, ...]] = ("fact_body",)
    node_id: str
    nonce: str
    forget_ms: int
    token_id: str
    fact_hash: str
    fact_body: bytes


class ExchangeRefused(Event, tag="exchange.refused.1"):
    """A peer's authenticated request was refused. Its nonce is spent all the same, unless the nonce was the reason."""

    node_id: str
    nonce: str | None
    forget_ms: int
    event_type: Literal["replay_attempt", "rejected_token", "scope_violation", "rejected_request"]
    reason: str
    detail: str


class PeerPinned(Event, tag="peer.pinned.1"):
    """An operator named the certificates that alone count for this peer, by SHA-256 (hex); with none its CA and names do."""

    peer_id: str
    node_id: str
    tls_pins: tuple[str, ...]


class PeerTlsFailed(Event, tag="peer.tls_failed.1"):
    """No TLS came about with a peer that is active: one side refused the other's certificate or version. `detail` says which."""

    peer_id: str
    node_id: str
    reason: str
    detail: str


class ManifestIntroduced(Event, tag="manifest.introduced.1"):
    """A relay handed over the manifest of an organisation that is no peer of ours (PROTOCOL §5.5); it is never a pin."""

    parts: ClassVar[tuple[str, ...]] = ("manifest",)
    introducer: str
    entity_uri: str
    public_key: str
    manifest: bytes
