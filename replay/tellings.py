"""How each event type is told: its verb, the things it is about, its words for people, the members shown as they are.

Always: one telling per event type. What nobody named here is not shown, so no hash of a key and no secret of a token is.

The table is for people in docs/audit.md.
"""

from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from node.events.api_keys import ApiKeyCreated, ApiKeyRevoked
from node.events.conflicts import ConflictResolved
from node.events.event import ERASED, Event
from node.events.facts import Fact, FactAsserted, FactsSealed
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
from node.projections.view import View
from node.times import format_ms
from replay.things import Kind, Thing, fact_thing


class Telling(Struct, frozen=True):
    """How one event type is told. `data` names the members that are shown as they are."""

    verb: str
    things: Callable[[Event, View], Iterator[Thing]]
    words: Callable[[Event], str]
    data: tuple[str, ...] = ()


# In place of what was erased: only that there was something.
_NOTHING_LEFT = Thing(kind="entity", id="", role="erased")


class _AttestedBody(Struct):
    """What is told of a fact body that was countersigned; the rest of it is ignored."""

    entity: str | None = None
    relation: str | None = None
    source: str | None = None
    scope: str | None = None


def _one(kind: Kind, member: str, role: str) -> Callable[[Event, View], Iterator[Thing]]:
    """The one thing that a member of the event names."""
    return lambda event, view: iter([Thing(kind=kind, id=getattr(event, member), role=role)])


def _peer(role: str) -> Callable[[Event, View], Iterator[Thing]]:
    return _one("peer", "node_id", role)


def _fact_of(role: str) -> Callable[[Event, View], Iterator[Thing]]:
    return lambda event, view: iter([fact_thing(event.fact, role)])


def _held(event: FactQuarantined, view: View) -> Iterator[Thing]:
    yield fact_thing(event.fact, "quarantined", garden_id=event.garden_id, reason=event.reason)


def _moderated(role: str) -> Callable[[Event, View], Iterator[Thing]]:
    def things(event: FactPromoted | FactRejected, view: View) -> Iterator[Thing]:
        row = view.facts.of_origin(event.origin, event.fact_id)
        if row is None:
            yield Thing(kind="fact", id=event.fact_id, role=role, origin=event.origin, garden_id=event.garden_id)
        else:
            yield fact_thing(row.fact, role, garden_id=event.garden_id, reason=event.reason)
        target = getattr(event, "target_garden_id", None)
        if target is not None:
            yield Thing(kind="garden", id=target, role="target")

    return things


def _member(role: str) -> Callable[[Event, View], Iterator[Thing]]:
    """The garden, and who came to be, or no longer is, a member of it."""

    def things(event: GardenMemberSet | GardenMemberRemoved, view: View) -> Iterator[Thing]:
        yield Thing(kind="garden", id=event.garden_id, role="membership")
        yield Thing(kind="principal", id=event.entity, role=role, garden_id=event.garden_id)

    return things


def _sealed(event: FactsSealed, view: View) -> Iterator[Thing]:
    for seal in event.seals:
        row = view.facts.of_origin(event.origin, seal.fact_id)
        if row is None:
            yield Thing(kind="fact", id=seal.fact_id, role="sealed", origin=event.origin)
        else:
            yield fact_thing(row.fact, "sealed")


def _resolved(event: ConflictResolved, view: View) -> Iterator[Thing]:
    yield Thing(kind="conflict", id=event.conflict_id, role="resolved", reason=event.note or None)
    yield fact_thing(event.fact, "resolution")
    if event.winning_fact_id is not None:
        row = view.facts.by_id(event.winning_fact_id)
        yield (
            Thing(kind="fact", id=event.winning_fact_id, role="winner")
            if row is None
            else fact_thing(row.fact, "winner")
        )


def _brought(event: BatchReceived | PushReceived, view: View) -> Iterator[Thing]:
    yield Thing(kind="peer", id=event.node_id, role="sender")
    for receipt in event.receipts:
        if receipt is ERASED:
            yield _NOTHING_LEFT
            continue
        role = "received" if receipt.quarantine_garden_id is None else "held"
        yield fact_thing(receipt.fact, role, garden_id=receipt.quarantine_garden_id, reason=receipt.quarantine_reason)
    for refused in event.outcome.refused:
        yield Thing(
            kind="fact",
            id=refused.fact_id,
            role="refused",
            source=refused.source,
            received_from=event.node_id,
            reason=f"{refused.event_type}: {refused.reason}",
        )


def _attested(event: AttestationSigned, view: View) -> Iterator[Thing]:
    yield Thing(kind="peer", id=event.node_id, role="asked")
    yield Thing(kind="token", id=event.token_id, role="shown")
    erased = event.fact_body is ERASED
    body = _AttestedBody() if erased else msgspec.json.decode(event.fact_body, type=_AttestedBody)
    yield Thing(
        kind="fact",
        id="",
        role="attested",
        entity=body.entity,
        relation=body.relation,
        source=body.source,
        scope=body.scope,
        fact_hash=event.fact_hash,
    )


def _entombed(role: str) -> Callable[[Event, View], Iterator[Thing]]:
    def things(event: EntityErased | HoldLifted | TombstoneRevoked, view: View) -> Iterator[Thing]:
        yield Thing(kind="entity", id=event.entity_uri, role=role)

    return things


def _tombstoned(event: EntityTombstoned, view: View) -> Iterator[Thing]:
    stone = event.tombstone
    yield Thing(kind="entity", id=stone.entity_uri, role="tombstoned", scope=stone.scope, reason=event.reason or None)


def _peer_tombstoned(event: PeerTombstoned, view: View) -> Iterator[Thing]:
    yield Thing(kind="peer", id=event.node_id, role="shown_by")
    role = "tombstoned" if event.revocation is None else "tombstone_revoked"
    yield Thing(kind="entity", id=event.tombstone.entity_uri, role=role, scope=event.tombstone.scope)


def _buried(event: EntityTombstoned) -> str:
    stone = event.tombstone
    held = ", under a legal hold" if stone.legal_hold else ""
    return f"tombstoned {stone.entity_uri} in scope {stone.scope}{held}{_because(event.reason)}"


def _shown_tombstone(event: PeerTombstoned) -> str:
    did = "tombstoned" if event.revocation is None else "revoked the tombstone of"
    return f"showed that {event.node_id} {did} {event.tombstone.entity_uri}"


def _issued(event: CapabilityIssued, view: View) -> Iterator[Thing]:
    yield Thing(kind="token", id=event.grant.token_id, role="issued", subject=event.grant.subject)


def _made_key(event: ApiKeyCreated, view: View) -> Iterator[Thing]:
    yield Thing(kind="api_key", id=event.grant.key_id, role="created", subject=event.grant.entity)


def _allowed(event: ApiKeyCreated) -> str:
    grant = event.grant
    until = format_ms(grant.expires_ms)
    return f"made API key {grant.key_id} for {grant.entity}: {_listed(grant.permissions)} until {until}"


def _introduced(event: ManifestIntroduced, view: View) -> Iterator[Thing]:
    yield Thing(kind="peer", id=event.introducer, role="introducer")
    yield Thing(kind="peer", id=event.entity_uri, role="introduced")


def _settings(event: SettingsChanged | TrustSettingsChanged, view: View) -> Iterator[Thing]:
    yield Thing(kind="settings", id="settings", role="changed", garden_id=event.settings.quarantine_garden_id)


def _listed(texts: tuple[str, ...]) -> str:
    return ", ".join(texts) or "none"


def _because(text: str) -> str:
    return f": {text}" if text else ""


def _said(fact: Fact) -> str:
    retracting = "retracted" if fact.confidence == 0.0 else "asserted"
    return f"{retracting} {_about(fact)}"


def _about(fact: Fact) -> str:
    return f"fact {fact.id}, {fact.relation} of {fact.entity}, as {fact.source} ({fact.scope})"


def _took(event: BatchReceived | PushReceived, way: str) -> str:
    told = [receipt for receipt in event.receipts if receipt is not ERASED]
    held = sum(receipt.quarantine_garden_id is not None for receipt in told)
    taken, refused = len(told) - held, len(event.outcome.refused)
    return f"{way}: {taken} accepted, {held} held, {refused} refused, {event.known} known"


def _granted(event: CapabilityIssued) -> str:
    grant = event.grant
    return f"issued token {grant.token_id} to {grant.subject}: {grant.verb} {grant.object} until {grant.expiry}"


def _page(event: PageServed) -> str:
    behind = f"behind cursor {event.cursor}" if event.cursor else "from the beginning"
    return f"was served a page of {event.scope or 'any scope'}, at most {event.limit} facts, {behind}"


def _promoted(event: FactPromoted) -> str:
    target = "no garden" if event.target_garden_id is None else f"garden {event.target_garden_id}"
    return f"admitted fact {event.fact_id} from quarantine {event.garden_id} into {target}{_because(event.reason)}"


def _proven(event: PeerVerified) -> str:
    proof = "its manifest proven by its log" if event.is_manifest_proven else "its manifest not proven"
    return f"verified peer {event.node_id}, {proof}; key {event.public_key}; warnings: {_listed(event.warnings)}"


def _new_key_of(event: KeyRotated) -> str:
    return key_id_of(read_rotation(event.rotation).new_public_key)


_CHANGED = ("peer_id", "allowed_scopes", "delegated_sources")
_TERMS = ("peer_id", "node_url", "allowed_scopes", "declared_key", "declared_at")

TELLINGS: dict[type[Event], Telling] = {
    NodeCreated: Telling(
        "created",
        _one("node", "node_id", "created"),
        lambda e: f"began this log as {e.node_id}, key {e.public_key}, {e.software}",
        ("public_key", "software"),
    ),
    AdminKeyCreated: Telling(
        "made_key",
        lambda event, view: iter([Thing(kind="admin_key", id="admin", role="made")]),
        lambda e: "made an admin key",
    ),
    KeyRotated: Telling(
        "rotated",
        lambda event, view: iter([Thing(kind="node_key", id=_new_key_of(event), role="current")]),
        lambda e: f"rotated the node's key to {_new_key_of(e)}",
    ),
    ManifestPublished: Telling(
        "published",
        _one("manifest", "manifest_id", "published"),
        lambda e: f"published manifest {e.manifest_id}",
    ),
    NodeRestored: Telling(
        "restored",
        lambda event, view: iter([Thing(kind="node", id=event.origin, role="restored")]),
        lambda e: f"goes on from a snapshot of {e.size} entries, as {e.origin}",
        ("size", "root"),
    ),
    RestoreConfirmed: Telling(
        "confirmed_restore",
        lambda event, view: iter([Thing(kind="node", id=str(event.offset), role="restore_confirmed")]),
        lambda e: f"confirmed the restore of offset {e.offset}: older credentials count again",
        ("offset",),
    ),
    SettingsChanged: Telling("changed_settings", _settings, lambda e: "changed the settings", ("settings",)),
    TrustSettingsChanged: Telling("changed_settings", _settings, lambda e: "changed the settings", ("settings",)),
    RequestRefused: Telling(
        "was_refused",
        _one("request", "subject", "refused"),
        lambda e: f"was refused {e.subject}: {e.code}{_because(e.detail)}",
        ("code", "detail"),
    ),
    RefusalsCounted: Telling(
        "was_refused_often",
        _one("principal", "principal", "refused"),
        lambda e: f"counted {e.count} more refusals of {e.principal} in the minute of {e.minute}: {e.code}",
        ("code", "count", "minute"),
    ),
    GardenCreated: Telling(
        "created_garden",
        _one("garden", "id", "created"),
        lambda e: f"created {'quarantine ' if e.is_quarantine else ''}garden {e.slug} ({e.id}), {e.scope}",
        ("slug", "name", "scope", "is_quarantine", "created_by"),
    ),
    GardenDeleted: Telling(
        "deleted_garden", _one("garden", "garden_id", "deleted"), lambda e: f"deleted garden {e.garden_id}"
    ),
    GardenMemberSet: Telling(
        "set_member",
        _member("member"),
        lambda e: f"made {e.entity} {e.role} of garden {e.garden_id}",
        ("role",),
    ),
    GardenMemberRemoved: Telling(
        "removed_member", _member("removed"), lambda e: f"removed {e.entity} from garden {e.garden_id}"
    ),
    FactQuarantined: Telling(
        "wrote_to_quarantine",
        _held,
        lambda e: f"wrote {_about(e.fact)}, held in quarantine {e.garden_id}{_because(e.reason)}",
        ("reason", "judgement"),
    ),
    FactPromoted: Telling("admitted", _moderated("admitted"), _promoted, ("reason", "target_garden_id")),
    FactRejected: Telling(
        "rejected",
        _moderated("rejected"),
        lambda e: f"rejected fact {e.fact_id} in quarantine {e.garden_id}{_because(e.reason)}",
        ("reason",),
    ),
    FactAsserted: Telling("asserted", _fact_of("asserted"), lambda e: _said(e.fact), ("judgement",)),
    FactsSealed: Telling(
        "sealed", _sealed, lambda e: f"sealed what was written before: {len(e.seals)} of {e.origin}", ("origin",)
    ),
    ConflictResolved: Telling(
        "resolved",
        _resolved,
        lambda e: f"resolved {e.conflict_id} by {_about(e.fact)}{_because(e.note)}",
        ("winning_fact_id", "note", "judgement"),
    ),
    CapabilityIssued: Telling("issued_token", _issued, _granted),
    CapabilityRevoked: Telling(
        "revoked_token",
        lambda event, view: iter([Thing(kind="token", id=event.revocation.token_id, role="revoked")]),
        lambda e: f"revoked token {e.revocation.token_id}{_because(e.reason)}",
        ("reason",),
    ),
    CapabilityAccepted: Telling(
        "accepted_token",
        _one("token", "token_id", "accepted"),
        lambda e: f"agreed to countersign what is written under token {e.token_id}",
    ),
    ApiKeyCreated: Telling("made_api_key", _made_key, _allowed, ("grant", "description")),
    ApiKeyRevoked: Telling(
        "revoked_api_key", _one("api_key", "key_id", "revoked"), lambda e: f"revoked API key {e.key_id}"
    ),
    PeerRegistered: Telling(
        "registered_peer",
        _peer("registered"),
        lambda e: f"registered peer {e.node_id} at {e.node_url}; scopes: {_listed(e.allowed_scopes)}",
        _TERMS,
    ),
    PeerVerified: Telling(
        "verified_peer",
        _peer("verified"),
        _proven,
        ("peer_id", "public_key", "is_manifest_proven", "checkpoint", "warnings"),
    ),
    PeerStatusSet: Telling(
        "set_peer_status",
        _peer("status_set"),
        lambda e: f"set peer {e.node_id} to {e.status}{_because(e.reason)}{_because(e.detail)}",
        ("peer_id", "status", "reason", "detail"),
    ),
    PeerChanged: Telling(
        "changed_peer",
        _peer("changed"),
        lambda e: (
            f"changed what is exchanged with {e.node_id}; scopes: {_listed(e.allowed_scopes)}; "
            f"delegated: {_listed(e.delegated_sources)}"
        ),
        _CHANGED,
    ),
    PeerPinned: Telling(
        "pinned_certificates",
        _peer("pinned"),
        lambda e: f"certificates that alone count for {e.node_id}: {_listed(e.tls_pins)}",
        ("peer_id", "tls_pins"),
    ),
    PeerTlsFailed: Telling(
        "had_no_tls",
        _peer("refused"),
        lambda e: f"had no TLS with {e.node_id}: {e.detail}",
        ("peer_id", "reason", "detail"),
    ),
    PageServed: Telling("was_served", _peer("served"), _page, ("scope", "cursor", "limit", "nonce")),
    BatchReceived: Telling(
        "brought_page",
        _brought,
        lambda e: _took(e, f"was read a page up to cursor {e.cursor}"),
        ("cursor", "known"),
    ),
    ManifestIntroduced: Telling(
        "introduced",
        _introduced,
        lambda e: f"took the manifest of {e.entity_uri}, key {e.public_key}, from {e.introducer}",
        ("public_key",),
    ),
    PushReceived: Telling("pushed", _brought, lambda e: _took(e, "pushed"), ("known", "nonce")),
    AttestationSigned: Telling(
        "had_countersigned",
        _attested,
        lambda e: f"had fact hash {e.fact_hash} countersigned, written under token {e.token_id}",
        ("nonce",),
    ),
    ExchangeRefused: Telling(
        "was_refused_exchange",
        _peer("refused"),
        lambda e: f"was refused: {e.event_type}, {e.reason}{_because(e.detail)}",
        ("event_type", "reason", "detail", "nonce"),
    ),
    IdempotencyKeyTaken: Telling(
        "took_key",
        _one("request", "route", "carried_out"),
        lambda e: f"carried out {e.route} once: {e.entries} entries before this one",
        ("entries",),
    ),
    PeerTermsProposed: Telling(
        "proposed_terms",
        _peer("proposed"),
        lambda e: f"proposed for {e.node_id}: {e.node_url}; scopes: {_listed(e.allowed_scopes)}",
        _TERMS,
    ),
    PeerTermsApproved: Telling(
        "approved_terms", _peer("approved"), lambda e: f"approved what {e.node_id} proposed", ("peer_id",)
    ),
    PeerCheckpointSeen: Telling(
        "saw_checkpoint",
        _peer("shown"),
        lambda e: f"saw that the log of {e.node_id} goes on",
        ("checkpoint",),
    ),
    PeerLogForked: Telling(
        "found_fork",
        _peer("forked"),
        lambda e: f"found that {e.node_id} signed two logs",
        ("peer_id", "held", "shown", "leaf_hash", "hashes"),
    ),
    PeerKeyForked: Telling(
        "found_key_fork",
        _peer("forked"),
        lambda e: f"found that one key of {e.node_id} named two successors",
        ("peer_id",),
    ),
    PeerCheckpointAccepted: Telling(
        "accepted_line",
        _peer("accepted"),
        lambda e: f"accepted the new line of the log of {e.node_id}",
        ("peer_id", "checkpoint"),
    ),
    CheckpointCosigned: Telling(
        "cosigned",
        lambda event, view: iter(
            [
                Thing(kind="peer", id=event.node_id, role="witness"),
                Thing(kind="checkpoint", id=str(event.size), role="cosigned"),
            ]
        ),
        lambda e: f"cosigned this log's checkpoint of {e.size} entries",
        ("size", "cosignature", "nonce"),
    ),
    EntityTombstoned: Telling("tombstoned", _tombstoned, _buried),
    EntityErased: Telling(
        "erased", _entombed("erased"), lambda e: f"erased what the log held of {e.entity_uri}", ("tombstone_id",)
    ),
    HoldLifted: Telling(
        "lifted_hold",
        _entombed("hold_lifted"),
        lambda e: f"lifted the legal hold on {e.entity_uri}{_because(e.reason)}",
        ("tombstone_id", "reason"),
    ),
    TombstoneRevoked: Telling(
        "revoked_tombstone",
        _entombed("tombstone_revoked"),
        lambda e: f"revoked the tombstone of {e.entity_uri}{_because(e.reason)}",
        ("tombstone_id", "reason"),
    ),
    PeerTombstoned: Telling("peer_tombstoned", _peer_tombstoned, _shown_tombstone),
    TombstonesServed: Telling(
        "served_tombstones", _peer("served"), lambda e: "was told which entities are tombstoned", ("nonce",)
    ),
}

# What is told of an entry of which nothing but the actor is left.
LEFT_NOTHING = Telling("left_nothing", lambda event, view: iter([_NOTHING_LEFT]), lambda e: "did what was erased since")
