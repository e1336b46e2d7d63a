"""One sample of every event type, in an order that tells a story: a node is born, gets peers, facts, a quarantine.

Always: a list in an event has more than one element somewhere, and text is not all ASCII, so that an encoding that only
works for the plain case does not pass.
"""

import json

from msgspec import structs

from node.canonical import b64url_encode, canonical_json
from node.events import EVENT_TYPES, tombstones
from node.events.api_keys import ApiKeyCreated, ApiKeyRevoked, KeyGrant
from node.events.checkpoint import Checkpoint, origin_of, sign_checkpoint
from node.events.conflicts import ConflictResolved
from node.events.event import Event, type_of
from node.events.facts import Fact, FactAsserted, FactsSealed, Judgement, Resolution, Seal, Value
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
    BlockedSource,
    KeyRotated,
    ManifestPublished,
    NodeCreated,
    NodeRestored,
    RefusalsCounted,
    RequestRefused,
    RestoreConfirmed,
    Settings,
    SettingsChanged,
    TrustRule,
    TrustSettings,
    TrustSettingsChanged,
)
from node.events.peers import (
    AttestationSigned,
    BatchReceived,
    BatchRefusal,
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
    Receipt,
    Receipts,
)
from node.events.rotations import sign_rotation
from node.events.tokens import CapabilityAccepted, CapabilityIssued, CapabilityRevoked, Grant, Revocation
from node.events.tombstones import (
    EntityErased,
    EntityTombstoned,
    ErasedPlace,
    HoldLifted,
    PeerTombstoned,
    Tombstone,
    TombstoneRevoked,
    TombstonesServed,
    packed_places,
    signed_revocation,
    signed_tombstone,
)
from node.kept_secrets import first_secrets
from node.keys import Signer

NODE_ID = "stigmem://org-a.example"
PEER_NODE_ID = "stigmem://org-b.example"
SIGNER = Signer.from_seed(bytes(range(32)))
PEER_SIGNER = Signer.from_seed(bytes(range(1, 33)))
# The key that the node is rotated to, near the end.
SUCCESSOR_SEED = bytes(range(2, 34))
SUCCESSOR = Signer.from_seed(SUCCESSOR_SEED)
AT = "2026-05-04T12:00:00.000Z"
FORGET_MS = 1_777_896_600_000
QUARANTINE_ID = "018f0000-0000-7000-8000-0000000000a1"

JUDGEMENT = Judgement(
    t=0.1625,
    identity=0.5,
    history=0.0,
    scope_authority=0.25,
    attestation=0.0,
    weights=(0.2, 0.4, 0.25, 0.15),
    rule="first_contact",
    mode="strict",
    threshold=0.2,
)


def fact_id(number: int) -> str:
    return f"018f0000-0000-7000-8000-{number:012x}"


def fact(number: int, *, is_foreign: bool = False, **changed: object) -> Fact:
    """A fact of this node, or of the peer. Seal, CID and hash have the right form and are not computed."""
    node_id = PEER_NODE_ID if is_foreign else NODE_ID
    members: dict[str, object] = {
        "id": fact_id(number),
        "entity": f"{node_id}/company/münchen-{number % 3}",
        "relation": "org:head_count",
        "value": Value(type="number", v=float(number), interpret_as="content"),
        "source": f"{node_id}/agent/crm",
        "timestamp": AT,
        "hlc": f"1777896000000.{number:03d}",
        "confidence": 0.9,
        "scope": "company",
        "valid_until": None,
        "garden_id": None,
        "received_from": node_id if is_foreign else None,
        "supersedes": (),
        "resolves": None,
        "origin": node_id,
        "seal": "c2VhbA",
        "source_trust": 0.1625 if is_foreign else None,
        "derived_from": (),
        "attestation_chain": (),
        "attestation_chain_issuers": (),
        "attestation_verified": (),
        "cid": f"sha256:{number:064x}",
        "fact_hash": f"{number:064x}",
        "warnings": (),
    }
    return Fact(**(members | changed))


def samples() -> list[Event]:
    """One of each type in EVENT_TYPES, of the common ones more; NodeCreated first."""
    events = [
        *_of_the_node(),
        *_of_peers(),
        *_of_facts(),
        *_of_quarantine(),
        *_of_exchange(),
        *_of_tokens(),
        *_of_conflicts(),
        *_of_pushes(),
        *_of_witness(),
        *_of_relays(),
        *_of_restores(),
        *_of_members(),
        *_of_api_keys(),
        *_of_idempotency(),
        *_of_trust(),
        *_of_tombstones(),
        *_of_tls(),
        *_of_rotation(),
    ]
    missing = EVENT_TYPES.keys() - {type_of(event) for event in events}
    if missing:
        raise LookupError(f"no sample of {sorted(missing)}: add one")
    return events


def _of_the_node() -> list[Event]:
    return [
        NodeCreated(node_id=NODE_ID, public_key=SIGNER.public_key_b64, software="stigmem-node 1.1.0"),
        AdminKeyCreated(key_hash="ab" * 32),
        ManifestPublished(manifest_id="m-1", manifest=_manifest(NODE_ID, SIGNER)),
        GardenCreated(
            id=QUARANTINE_ID,
            slug="quarantine",
            name="Quarantäne",
            scope="company",
            description="",
            is_quarantine=True,
            created_by=NODE_ID,
        ),
        SettingsChanged(
            settings=Settings(
                quarantine_garden_id=QUARANTINE_ID,
                trust_mode="strict",
                quarantine_trust_threshold=0.2,
                trust_weights=(0.2, 0.4, 0.25, 0.15),
                blocked_sources=("user:mallory", "stigmem://org-x.example"),
            )
        ),
        RequestRefused(code="insufficient_permission", detail='needs "admin" \u2028 so', subject="PUT /v1/settings"),
        RefusalsCounted(principal="agent:cto", code="insufficient_permission", count=41, minute="2026-05-04T12:00Z"),
    ]


def _of_peers() -> list[Event]:
    return [
        PeerRegistered(
            peer_id="peer-1",
            node_id=PEER_NODE_ID,
            node_url="https://org-b.example:8765",
            allowed_scopes=("company", "public"),
            declared_key=PEER_SIGNER.public_key_b64,
            declared_at=AT,
        ),
        PeerVerified(
            peer_id="peer-1",
            node_id=PEER_NODE_ID,
            public_key=PEER_SIGNER.public_key_b64,
            is_manifest_proven=True,
            checkpoint="org-b.example/stigmem-log\n3\nroot\n\nsigned\n",
            warnings=("insecure_transport",),
            manifest=_manifest(PEER_NODE_ID, PEER_SIGNER),
        ),
        PeerChanged(
            peer_id="peer-1",
            node_id=PEER_NODE_ID,
            allowed_scopes=("company", "public"),
            delegated_sources=("agent:cto", "user:alice"),
        ),
    ]


def _of_facts() -> list[Event]:
    resolution = Resolution(conflict_id="c-1", superseded=(fact_id(1),))
    return [
        FactAsserted(judgement=None, fact=fact(1)),
        FactAsserted(judgement=JUDGEMENT, fact=fact(2, source="user:alice", value=_text("Zürich"), confidence=0.5)),
        FactAsserted(judgement=None, fact=fact(3, supersedes=(fact_id(1),), resolves=resolution)),
        FactAsserted(judgement=None, fact=fact(4, value=_null(), confidence=0.0)),
        FactAsserted(judgement=None, fact=fact(5, seal=None, scope="public")),
        FactsSealed(origin=fact(5).origin, seals=(Seal(fact_id=fact_id(5), seal=fact(1).seal),)),
    ]


def _of_conflicts() -> list[Event]:
    claims = {"entity": f"{NODE_ID}/service/billing", "relation": "memory:state", "scope": "public"}
    sides = [fact(number, **claims, value=_text(text)) for number, text in ((21, "up"), (22, "down"), (23, "up"))]
    named = "stigmem:conflict:2f3c6a9e-5d1b-5c57-9e0f-3c1d8f6a7b10"
    resolution = Resolution(conflict_id=named, superseded=tuple(side.id for side in sides))
    return [
        *(FactAsserted(judgement=None, fact=side) for side in sides),
        ConflictResolved(
            conflict_id=named,
            winning_fact_id=fact_id(22),
            note="checked",
            judgement=None,
            fact=fact(24, **claims, value=_text("down"), resolves=resolution),
        ),
        FactAsserted(judgement=None, fact=fact(25, **claims, value=_text("up"))),
    ]


def _of_quarantine() -> list[Event]:
    promoted, rejected = fact(5, source="user:bob"), fact(6, source="user:bob", warnings=("informal_uri",))
    return [
        FactQuarantined(garden_id=QUARANTINE_ID, reason="trust_below_threshold", judgement=JUDGEMENT, fact=promoted),
        FactQuarantined(garden_id=QUARANTINE_ID, reason="instruction", judgement=None, fact=rejected),
        FactPromoted(
            fact_id=promoted.id, origin=NODE_ID, garden_id=QUARANTINE_ID, target_garden_id=None, reason="checked"
        ),
        FactRejected(fact_id=rejected.id, origin=NODE_ID, garden_id=QUARANTINE_ID, reason=""),
    ]


def _of_exchange() -> list[Event]:
    held = fact(8, is_foreign=True)
    receipts = (
        Receipt(fact=fact(7, is_foreign=True), judgement=JUDGEMENT, quarantine_garden_id=None, quarantine_reason=None),
        Receipt(fact=held, judgement=JUDGEMENT, quarantine_garden_id=QUARANTINE_ID, quarantine_reason="first_contact"),
    )
    refused = BatchRefusal(fact_id=fact_id(9), source="agent:eve", event_type="rejected_fact", reason="seal_invalid")
    return [
        BatchReceived(
            node_id=PEER_NODE_ID, cursor="cursor-2", known=1, outcome=Receipts(refused=(refused,)), receipts=receipts
        ),
        BatchReceived(node_id=PEER_NODE_ID, cursor="cursor-3", known=2, outcome=Receipts(refused=()), receipts=()),
        FactPromoted(
            fact_id=held.id, origin=PEER_NODE_ID, garden_id=QUARANTINE_ID, target_garden_id=None, reason="known"
        ),
        PageServed(
            node_id=PEER_NODE_ID,
            nonce="nonce-1",
            forget_ms=FORGET_MS,
            scope="company",
            cursor=None,
            limit=100,
        ),
        AttestationSigned(
            node_id=PEER_NODE_ID,
            nonce="nonce-2",
            forget_ms=FORGET_MS,
            token_id="token-1",
            fact_hash=f"{7:064x}",
            fact_body=b'{"entity":"stigmem://org-b.example/company/1"}',
        ),
        ExchangeRefused(
            node_id=PEER_NODE_ID,
            nonce="nonce-3",
            forget_ms=FORGET_MS,
            event_type="scope_violation",
            reason="scope_not_permitted",
            detail="team",
        ),
        PeerStatusSet(
            peer_id="peer-1", node_id=PEER_NODE_ID, status="revoked", reason="operator", detail="contract ended"
        ),
    ]


def _of_tokens() -> list[Event]:
    grant = Grant(
        token_version=1,
        token_id="token-1",
        issuer=NODE_ID,
        subject=f"{NODE_ID}/agent/crm",
        verb="write",
        object=f"{NODE_ID}/company",
        issued_at=AT,
        expiry="2026-05-05T12:00:00.000Z",
        nonce="bm9uY2U",
        key_id=SIGNER.key_id,
    )
    return [
        CapabilityIssued(grant=grant),
        CapabilityRevoked(reason="lost", revocation=Revocation(token_id="token-1", revoked_at=AT)),
        CapabilityAccepted(token_id="token-of-org-b"),
        GardenDeleted(garden_id=QUARANTINE_ID),
    ]


def _of_relays() -> list[Event]:
    stranger = "stigmem://org-c.example"
    return [
        ManifestIntroduced(
            introducer=PEER_NODE_ID,
            entity_uri=stranger,
            public_key=SIGNER.public_key_b64,
            manifest=_manifest(stranger, SIGNER),
        )
    ]


def _of_pushes() -> list[Event]:
    receipt = Receipt(fact=fact(10, is_foreign=True), judgement=None, quarantine_garden_id=None, quarantine_reason=None)
    refused = BatchRefusal(
        fact_id=fact_id(11), source=f"{NODE_ID}/agent/crm", event_type="rejected_fact", reason="source_not_owned"
    )
    return [
        PushReceived(
            node_id=PEER_NODE_ID,
            nonce="nonce-4",
            forget_ms=FORGET_MS,
            known=1,
            outcome=Receipts(refused=(refused,)),
            receipts=(receipt,),
        ),
        PushReceived(
            node_id=PEER_NODE_ID,
            nonce="nonce-5",
            forget_ms=FORGET_MS,
            known=0,
            outcome=Receipts(refused=(refused, refused)),
            receipts=(),
        ),
    ]


def _of_members() -> list[Event]:
    garden_id, gardener = "018f0000-0000-7000-8000-0000000000a2", f"{NODE_ID}/agent/g%C3%A4rtner"
    return [
        GardenCreated(
            id=garden_id,
            slug="beete",
            name="Gemüsebeete",
            scope="team",
            description="",
            is_quarantine=False,
            created_by=NODE_ID,
        ),
        GardenMemberSet(garden_id=garden_id, entity=gardener, role="reader"),
        GardenMemberSet(garden_id=garden_id, entity="user:alice", role="writer"),
        GardenMemberSet(garden_id=garden_id, entity=gardener, role="admin"),
        GardenMemberRemoved(garden_id=garden_id, entity="user:alice"),
    ]


def _of_witness() -> list[Event]:
    held, shown = _note(12, b"h"), _note(15, b"s")
    return [
        PeerRegistered(
            peer_id="peer-2",
            node_id=PEER_NODE_ID,
            node_url="https://org-b.example",
            allowed_scopes=("public",),
            declared_key=PEER_SIGNER.public_key_b64,
            declared_at=AT,
        ),
        PeerTermsProposed(
            peer_id="peer-2",
            node_id=PEER_NODE_ID,
            node_url="https://münchen.org-b.example",
            allowed_scopes=("public", "company"),
            declared_key=PEER_SIGNER.public_key_b64,
            declared_at="2026-05-04T12:30:00.000Z",
        ),
        PeerTermsApproved(peer_id="peer-2", node_id=PEER_NODE_ID),
        PeerVerified(
            peer_id="peer-2",
            node_id=PEER_NODE_ID,
            public_key=PEER_SIGNER.public_key_b64,
            is_manifest_proven=True,
            checkpoint=_note(9, b"v"),
            warnings=(),
            manifest=_manifest(PEER_NODE_ID, PEER_SIGNER),
        ),
        PeerCheckpointSeen(node_id=PEER_NODE_ID, checkpoint=held),
        PeerLogForked(
            peer_id="peer-2",
            node_id=PEER_NODE_ID,
            held=held,
            shown=shown,
            leaf_hash="ab" * 32,
            hashes=("cd" * 32, "ef" * 32),
        ),
        PeerCheckpointAccepted(peer_id="peer-2", node_id=PEER_NODE_ID, checkpoint=shown),
        PeerCheckpointSeen(node_id=PEER_NODE_ID, checkpoint=_note(16, b"t")),
        PeerLogForked(
            peer_id="peer-2",
            node_id=PEER_NODE_ID,
            held=_note(16, b"t"),
            shown=_note(16, b"u"),
            leaf_hash=None,
            hashes=(),
        ),
        CheckpointCosigned(
            node_id=PEER_NODE_ID,
            nonce="nonce-4",
            forget_ms=FORGET_MS,
            size=30,
            cosignature="\u2014 org-b.example Y29zaWduYXR1cmU=",
        ),
    ]


def _of_restores() -> list[Event]:
    return [
        NodeRestored(size=60, root="0b" * 32, origin="org-a.example/stigmem-log/0123456789abcdef"),
        RestoreConfirmed(offset=60),
        NodeRestored(size=64, root="0c" * 32, origin="org-a.example/stigmem-log/fedcba9876543210"),
    ]


def _of_api_keys() -> list[Event]:
    grant = KeyGrant(
        key_id="01890000-0000-7000-8000-0000000000a1",
        entity=f"{NODE_ID}/agent/scribe",
        permissions=("read", "write", "instruction:write"),
        allowed_scopes=("local", "company"),
        allowed_sources=("agent:", f"{NODE_ID}/service/billing"),
        expires_ms=1_785_000_000_000,
    )
    other = structs.replace(
        grant, key_id="01890000-0000-7000-8000-0000000000a2", permissions=("federate", "admin"), allowed_sources=()
    )
    return [
        ApiKeyCreated(key_hash="ac" * 32, description="the scribe's, in \u00dcberlingen", grant=grant),
        ApiKeyCreated(key_hash="ad" * 32, description="", grant=other),
        ApiKeyRevoked(key_id=other.key_id),
    ]


def _of_idempotency() -> list[Event]:
    return [
        IdempotencyKeyTaken(route="POST /v1/facts", request_hash="ab" * 32, entries=1, answer=None),
        IdempotencyKeyTaken(
            route="POST /v1/facts/batch",
            request_hash="cd" * 32,
            entries=0,
            answer='{"accepted":0,"rejected":1,"results":[{"index":0,"status":"rejected","error":"invalid_field"}]}',
        ),
        IdempotencyKeyTaken(route="POST /v1/facts", request_hash="ef" * 32, entries=0, answer=None),
    ]


def _of_trust() -> list[Event]:
    return [
        TrustSettingsChanged(
            settings=TrustSettings(
                quarantine_garden_id=QUARANTINE_ID,
                trust_mode="strict",
                quarantine_trust_threshold=0.45,
                trust_weights=None,
                blocked_sources=(
                    BlockedSource(origin=None, source="user:mallory"),
                    BlockedSource(origin=PEER_NODE_ID, source="agent:größe"),
                ),
                trust_rules=(
                    TrustRule(decision="always", origin=PEER_NODE_ID, source=f"{PEER_NODE_ID}/agent"),
                    TrustRule(decision="never", origin=PEER_NODE_ID, source="agent:"),
                ),
            )
        ),
    ]


def _of_tombstones() -> list[Event]:
    ghost, bob = f"{NODE_ID}/user/ghost", f"{PEER_NODE_ID}/user/bob"
    held = tombstone("tomb_018f00000000700080000000000000d1", ghost, SIGNER, legal_hold=True)
    limited = tombstone("tomb_018f00000000700080000000000000d2", f"{NODE_ID}/user/carol", SIGNER, scope="company")
    theirs = tombstone("tomb_018f00000000700080000000000000d3", bob, PEER_SIGNER, signed_by=PEER_NODE_ID)
    places = (ErasedPlace(1, 901, 0, 20_577), ErasedPlace(7, 903, 1, None), ErasedPlace(9, 901, None, None))
    return [
        EntityTombstoned(tombstone=held, reason="asked for by alïce", shared_scopes=("company", "public")),
        HoldLifted(tombstone_id=held.id, entity_uri=ghost, reason="the case is closed"),
        # Names items that no entry has, so that nothing of what the samples tell is missing.
        EntityErased(
            tombstone_id=held.id,
            entity_uri=ghost,
            organisations=((PEER_NODE_ID, True), ("stigmem://org-c.example", False)),
            places=packed_places(places),
        ),
        EntityTombstoned(tombstone=limited, reason="", shared_scopes=()),
        TombstoneRevoked(
            tombstone_id=limited.id,
            entity_uri=limited.entity_uri,
            reason="entered by mistake",
            revocation=revocation(limited, SIGNER),
        ),
        PeerTombstoned(node_id=PEER_NODE_ID, tombstone=theirs, revocation=None),
        PeerTombstoned(node_id=PEER_NODE_ID, tombstone=theirs, revocation=revocation(theirs, PEER_SIGNER)),
        TombstonesServed(node_id=PEER_NODE_ID, nonce="018f0000-0000-7000-8000-0000000000e1", forget_ms=FORGET_MS),
    ]


def tombstone(
    tombstone_id: str,
    entity: str,
    signer: Signer,
    *,
    scope: str = "*",
    legal_hold: bool = False,
    signed_by: str = NODE_ID,
) -> Tombstone:
    """A tombstone as that key signs it."""
    unsigned = Tombstone(
        id=tombstone_id,
        entity_uri=entity,
        scope=scope,
        legal_hold=legal_hold,
        created_at=AT,
        signed_by=signed_by,
        key_id=signer.key_id,
        signature="",
    )
    return structs.replace(unsigned, signature=b64url_encode(signer.sign(signed_tombstone(unsigned))))


def revocation(revoked: Tombstone, signer: Signer) -> tombstones.Revocation:
    unsigned = tombstones.Revocation(revoked_at=AT, key_id=signer.key_id, signature="")
    return structs.replace(unsigned, signature=b64url_encode(signer.sign(signed_revocation(revoked, unsigned))))


def _of_tls() -> list[Event]:
    detail = "no TLS: certificate has expired, in \u00dcberlingen"
    return [
        PeerPinned(peer_id="peer-1", node_id=PEER_NODE_ID, tls_pins=("ab" * 32, "cd" * 32)),
        PeerTlsFailed(peer_id="peer-1", node_id=PEER_NODE_ID, reason="peer_tls_refused", detail=detail),
        PeerPinned(peer_id="peer-1", node_id=PEER_NODE_ID, tls_pins=()),
    ]


def _of_rotation() -> list[Event]:
    """A peer's key forks; then this node's own is rotated: what comes behind is signed by SUCCESSOR."""
    held, shown = (
        sign_rotation(
            PEER_SIGNER,
            Signer.from_seed(bytes([number]) * 32).public_key,
            entity_uri=PEER_NODE_ID,
            rotated_ms=1_777_896_000_000 + number,
            compromised_since_ms=None,
        )
        for number in (71, 72)
    )
    rotation = sign_rotation(
        SIGNER,
        SUCCESSOR.public_key,
        entity_uri=NODE_ID,
        rotated_ms=1_777_896_000_000,
        compromised_since_ms=1_777_892_400_000,
    )
    return [
        PeerKeyForked(peer_id="peer-1", node_id=PEER_NODE_ID, held=held, shown=shown),
        KeyRotated(kept=first_secrets(SIGNER).sealed_for(SUCCESSOR, bytes(range(24))), rotation=rotation),
        ManifestPublished(
            manifest_id="01890000-0000-7000-8000-0000000000b1", manifest=_manifest(NODE_ID, SUCCESSOR, (rotation,))
        ),
    ]


def _note(size: int, root: bytes) -> str:
    checkpoint = Checkpoint(origin=origin_of(PEER_NODE_ID), size=size, root=root * 32)
    return sign_checkpoint(checkpoint, PEER_SIGNER)


def _manifest(node_id: str, signer: Signer, rotations: tuple[bytes, ...] = ()) -> bytes:
    members = {
        "manifest_version": 1,
        "entity_uri": node_id,
        "public_key": signer.public_key_b64,
        "key_id": signer.key_id,
        "entities": [node_id],
        "rotation_events": [json.loads(rotation) for rotation in rotations],
        "issued_at": AT,
        "expires_at": "2027-05-04T12:00:00.000Z",
    }
    signature = b64url_encode(signer.sign(canonical_json(members)))
    return canonical_json(members | {"signature": signature})


def _text(text: str) -> Value:
    return Value(type="string", v=text, interpret_as="content")


def _null() -> Value:
    return Value(type="null", v=None, interpret_as="content")
