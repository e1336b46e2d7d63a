"""Tombstones: removing an entity from every read, having it erased, legal holds and revocations, and what peers say of theirs
(PROTOCOL §15, docs/tombstones.md).

Always: only this node's operators bury, lift and revoke; a peer's tombstone counts under its pinned key alone, for its own facts.

Does not find what is to be erased (see `node/projections/erased_items.py`) and does not erase it (see `node/erasing.py`).
"""

from typing import get_args

from msgspec import Struct, structs

from node.canonical import b64url_decode, b64url_encode
from node.commands.decision import Context, Decision, Principal
from node.commands.drafts import check_name, normal_field
from node.commands.exchange import answer_peer, exchanged_scopes
from node.commands.gardens import require_operator
from node.commands.peer_tokens import Claims, forget_ms
from node.commands.reading import administers_every_scope
from node.errors import (
    EntityIsTombstoned,
    FieldTooLong,
    InsufficientPermission,
    InvalidField,
    InvalidUri,
    ReservedNamespace,
    ScopeNotPermitted,
    TombstoneAlreadyRevoked,
    TombstoneNotFound,
    TombstoneNotHeld,
    UnknownOrInactivePeer,
)
from node.events.event import NODE_ITSELF, Actor
from node.events.rotations import keys_for
from node.events.tombstones import (
    EntityErased,
    EntityTombstoned,
    ErasedPlace,
    HoldLifted,
    PeerTombstoned,
    Revocation,
    Tombstone,
    TombstoneRevoked,
    TombstoneScope,
    TombstonesServed,
    packed_places,
    signed_revocation,
    signed_tombstone,
)
from node.keys import key_id_of, verify
from node.projections.access import ALL_SCOPES
from node.projections.fact_rows import FactRow, may_travel
from node.projections.peers import Peer
from node.projections.tombstones import Grave
from node.projections.view import View
from node.times import format_ms, parse_rfc3339
from node.uris import check_plain, is_reserved_entity, normal_uri, origin_of

MAX_REASON_CHARS = 2000
# How many characters of a key's id a reference node puts into what it signs (INTEROP §11).
_SHORT_KEY_ID = 16


class TombstoneEntity(Struct, frozen=True, kw_only=True):
    principal: Principal
    entity_uri: str
    scope: TombstoneScope
    reason: str
    legal_hold: bool


class LiftHold(Struct, frozen=True, kw_only=True):
    principal: Principal
    tombstone_id: str
    reason: str


class RevokeTombstone(Struct, frozen=True, kw_only=True):
    principal: Principal
    tombstone_id: str
    reason: str


class EraseEntity(Struct, frozen=True, kw_only=True):
    """The node itself erases what a tombstone hides; `places` are all items about the entity, found since it was buried."""

    tombstone_id: str
    places: tuple[ErasedPlace, ...]


class ServeTombstones(Struct, frozen=True, kw_only=True):
    """A peer asks for this node's tombstones; its token's signature was checked at the door."""

    claims: Claims


class TakePeersTombstones(Struct, frozen=True, kw_only=True):
    """What a peer showed of its tombstones, as it came; `public_key` is the one that it had then."""

    node_id: str
    public_key: str | None
    shown: tuple[tuple[Tombstone, Revocation | None], ...]


def decide_tombstone_entity(command: TombstoneEntity, view: View, context: Context) -> Decision:
    _require_gravedigger(command.principal)
    check_name("entity_uri", command.entity_uri)
    entity = normal_field("entity_uri", command.entity_uri)
    if is_reserved_entity(entity):
        raise ReservedNamespace("entity_uri: names under stigmem: are the node's own")
    _check_reason(command.reason)
    scopes = ALL_SCOPES if command.scope == "*" else (command.scope,)
    if all(view.facts.is_tombstoned(entity, scope) for scope in scopes):
        raise EntityIsTombstoned("entity_uri: it is tombstoned already")
    tombstone = _signed(
        Tombstone(
            id=f"tomb_{context.clock.new_id().replace('-', '')}",
            entity_uri=entity,
            scope=command.scope,
            legal_hold=command.legal_hold,
            created_at=format_ms(context.at_ms),
            signed_by=context.node_id,
            key_id=context.signer.key_id,
            signature="",
        ),
        context,
    )
    shared = {row.fact.scope for row in view.facts.about(entity) if _was_ours_to_give(row, context.node_id)}
    event = EntityTombstoned(
        tombstone=tombstone,
        reason=command.reason,
        shared_scopes=tuple(scope for scope in scopes if scope in shared),
    )
    return Decision(events=(event,), actor=command.principal.actor(), reply=tombstone.id)


def decide_lift_hold(command: LiftHold, view: View, context: Context) -> Decision:
    _require_gravedigger(command.principal)
    _check_reason(command.reason)
    grave = _grave(command.tombstone_id, view)
    _require_standing(grave)
    if not grave.held:
        raise TombstoneNotHeld("no legal hold is on it")
    event = HoldLifted(tombstone_id=grave.tombstone.id, entity_uri=grave.tombstone.entity_uri, reason=command.reason)
    return Decision(events=(event,), actor=command.principal.actor())


def decide_revoke_tombstone(command: RevokeTombstone, view: View, context: Context) -> Decision:
    _require_gravedigger(command.principal)
    _check_reason(command.reason)
    grave = _grave(command.tombstone_id, view)
    _require_standing(grave)
    unsigned = Revocation(revoked_at=format_ms(context.at_ms), key_id=context.signer.key_id, signature="")
    signature = context.signer.sign(signed_revocation(grave.tombstone, unsigned))
    event = TombstoneRevoked(
        tombstone_id=grave.tombstone.id,
        entity_uri=grave.tombstone.entity_uri,
        reason=command.reason,
        revocation=structs.replace(unsigned, signature=b64url_encode(signature)),
    )
    return Decision(events=(event,), actor=command.principal.actor())


def decide_erase_entity(command: EraseEntity, view: View, context: Context) -> Decision:
    """No events where nothing is to be erased any more: it was, or the tombstone was revoked or held meanwhile."""
    grave = view.tombstones.by_id(command.tombstone_id)
    if grave is None or not grave.is_to_be_erased:
        return Decision()
    entity = grave.tombstone.entity_uri
    if entity in view.tombstones.held_entities():
        return Decision()
    rows = view.facts.about(entity)
    if {row.place for row in rows} != {(one.offset, one.index) for one in command.places if one.index is not None}:
        raise ValueError("the facts of a tombstoned entity are not those that were found")
    decided = {origin_of(normal_uri(row.fact.source), row.fact.origin) for row in rows if row.decided_from is not None}
    event = EntityErased(
        tombstone_id=grave.tombstone.id,
        entity_uri=entity,
        organisations=tuple((name, view.sources.of_organisation(name).is_admitted) for name in sorted(decided)),
        places=packed_places(command.places),
    )
    return Decision(events=(event,), actor=NODE_ITSELF, reply=True)


def decide_serve_tombstones(command: ServeTombstones, view: View, context: Context) -> Decision:
    def serve(peer: Peer) -> Decision:
        scopes = tuple(scope for scope in exchanged_scopes(peer, context.config) if scope in command.claims.scopes)
        if not scopes:
            raise ScopeNotPermitted("no scope is left of what the peer is allowed and its token names")
        event = TombstonesServed(
            node_id=peer.node_id, nonce=str(command.claims.nonce), forget_ms=forget_ms(command.claims, context)
        )
        return Decision(events=(event,), reply=scopes)

    return answer_peer(command.claims, view, context, serve)


def decide_take_peers_tombstones(command: TakePeersTombstones, view: View, context: Context) -> Decision:
    """Record what is new and holds; the reply is how many did not. What was recorded is not taken again."""
    peer = view.peers.of_node(command.node_id)
    if peer is None or peer.status != "active" or peer.public_key != command.public_key or peer.public_key is None:
        raise UnknownOrInactivePeer()
    events, refused = {}, 0
    for tombstone, revocation in command.shown:
        if not _holds(tombstone, revocation, peer):
            refused += 1
            continue
        known = view.tombstones.of_peer(peer.node_id, tombstone.id)
        if known is None or (known.revocation is None and revocation is not None and known.tombstone == tombstone):
            events[tombstone.id] = PeerTombstoned(node_id=peer.node_id, tombstone=tombstone, revocation=revocation)
    actor = Actor(principal=peer.node_id, via="peer", credential=None, idempotency_key=None, trace_id=None)
    return Decision(events=tuple(events.values()), actor=actor, reply=refused)


def _holds(tombstone: Tombstone, revocation: Revocation | None, peer: Peer) -> bool:
    """Whether the peer itself signed both, each by a key that proves something of its date, about a name that a fact may carry."""
    try:
        check_name("entity_uri", tombstone.entity_uri)
        is_normal = normal_uri(tombstone.entity_uri) == tombstone.entity_uri
        is_signed = _is_peers(
            signed_tombstone(tombstone), tombstone.signature, tombstone.key_id, tombstone.created_at, peer
        )
        is_revoked = revocation is None or _is_peers(
            signed_revocation(tombstone, revocation),
            revocation.signature,
            revocation.key_id,
            revocation.revoked_at,
            peer,
        )
    except (ValueError, FieldTooLong, InvalidField, InvalidUri):
        return False
    return (
        is_normal
        and is_signed
        and is_revoked
        and tombstone.signed_by == peer.node_id
        and tombstone.scope in get_args(TombstoneScope)
    )


def _is_peers(message: bytes, signature: str, key_id: str, dated: str, peer: Peer) -> bool:
    """ValueError where signature or date are none."""
    raw = b64url_decode(signature)
    keys = ((key, key_id_of(key)) for key in keys_for(peer.keys, parse_rfc3339(dated)))
    return any(key_id in (name, name[:_SHORT_KEY_ID]) and verify(key, message, raw) for key, name in keys)


def _signed(unsigned: Tombstone, context: Context) -> Tombstone:
    return structs.replace(unsigned, signature=b64url_encode(context.signer.sign(signed_tombstone(unsigned))))


def _require_gravedigger(principal: Principal) -> None:
    """Raises InsufficientPermission but for an admin of every scope: what is buried is gone for those of all of them."""
    require_operator(principal)
    if not administers_every_scope(principal):
        raise InsufficientPermission("a tombstone reaches facts in every scope, and the key does not read all")


def _check_reason(reason: str) -> None:
    check_plain(reason, "reason")
    if len(reason) > MAX_REASON_CHARS:
        raise FieldTooLong(f"reason: more than {MAX_REASON_CHARS} characters")


def _grave(tombstone_id: str, view: View) -> Grave:
    grave = view.tombstones.by_id(tombstone_id)
    if grave is None:
        raise TombstoneNotFound("this node has no such tombstone")
    return grave


def _require_standing(grave: Grave) -> None:
    if grave.revocation is not None:
        raise TombstoneAlreadyRevoked(f"it was revoked at {grave.revocation.revoked_at}")


def _was_ours_to_give(row: FactRow, node_id: str) -> bool:
    return row.fact.origin == node_id and row.shown_from is not None and may_travel(row)
