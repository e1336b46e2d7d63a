"""/v1/tombstones: burying an entity, legal holds, revocations; /v1/federation/tombstones: what peers are told (PROTOCOL §15)."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Literal

from aiohttp import web
from msgspec import Meta, Struct, structs

from node.commands.capabilities import is_garden_uri, scopes_of
from node.commands.decision import Principal
from node.commands.reading import administers_every_scope
from node.commands.tombstones import LiftHold, RevokeTombstone, ServeTombstones, TombstoneEntity
from node.errors import (
    EntityIsTombstoned,
    FieldTooLong,
    IdempotencyKeyReused,
    InsufficientCapability,
    InsufficientPermission,
    InvalidCursor,
    InvalidUri,
    Refusal,
    ReservedNamespace,
    ScopeNotPermitted,
    TombstoneAlreadyRevoked,
    TombstoneNotFound,
    TombstoneNotHeld,
    UnsupportedParameter,
)
from node.events.entry import Entry
from node.events.facts import Scope
from node.events.tombstones import Revocation, Tombstone, TombstoneScope
from node.http.auth import bearer_of, operator_of, principal_of
from node.http.body import decode_optional, decode_query, json_response, read_json, time_asked
from node.http.cursors import FOREIGN, cursor_text, kept_cursor_text, opened_cursor, opened_kept_cursor
from node.http.describe import ADMIN, describes
from node.http.exchange import authenticated_peer, refuse_peer
from node.http.forms import Base64Url, Count, Entity, Time
from node.http.idempotency import TAKES_KEY, carry_out
from node.http.keys import NODE
from node.http.moments import refuse_as_of
from node.projections.access import ALL_SCOPES
from node.projections.base import LAST_PLACE, Place
from node.projections.tombstones import Grave, PeersGrave, grave_of
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.times import parse_rfc3339
from node.uris import lies_under

MAX_BYTES = 1 << 16
MAX_SERVED = 500
# What is `erasing` is hidden already, and its erasure under way or to be tried again.
Status = Literal["hidden", "erasing", "erased", "revoked"]


class TombstoneRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    entity_uri: Entity
    scope: TombstoneScope = "*"
    reason: str = ""
    legal_hold: bool = False


class ReasonRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: str = ""


class TombstonesQuery(Struct, frozen=True, kw_only=True):
    """With `of=peers` what peers showed of theirs, else this node's own."""

    of: Literal["node", "peers"] = "node"
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class ServedQuery(Struct, frozen=True, kw_only=True):
    """`since` is an RFC 3339 time, as reference nodes send it, or a cursor."""

    since: str | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_SERVED)] = 200


class SignedTombstone(Struct, frozen=True, kw_only=True):
    """A tombstone as it was signed: the signature is over the canonical JSON of the other members (docs/tombstones.md)."""

    id: str
    entity_uri: Entity
    scope: TombstoneScope
    legal_hold: bool
    created_at: Time
    signed_by: str
    key_id: str
    signature: Base64Url


class RevocationRecord(Struct, frozen=True, kw_only=True):
    """That a tombstone counts no more, signed by whoever signed it."""

    revoked_at: Time
    key_id: str
    signature: Base64Url


class TombstoneRecord(SignedTombstone, frozen=True, kw_only=True):
    """A tombstone of this node's, with what became of it; `legal_hold` is as it was signed, `held` whether a hold is on it now."""

    reason: str
    created_by: str | None
    status: Status
    held: bool
    hold_lifted_at: Time | None
    erased_at: Time | None
    erased_items: Count
    revoked_at: Time | None
    revocation_reason: str | None
    log_offset: Count


class PeersTombstoneRecord(SignedTombstone, frozen=True, kw_only=True):
    """A tombstone that a peer showed. `facts_hidden` are those of that peer's about the entity; `facts_left` are of others, which
    its word does not reach: whether they go too is the operator's to say.
    """

    peer: str
    seen_at: Time
    revoked_at: Time | None
    facts_hidden: Count
    facts_left: Count
    log_offset: Count


class TombstonesPage(Struct, frozen=True, kw_only=True):
    tombstones: list[TombstoneRecord]
    cursor: str | None
    has_more: bool


class PeersTombstonesPage(Struct, frozen=True, kw_only=True):
    """What peers showed of theirs."""

    tombstones: list[PeersTombstoneRecord]
    cursor: str | None
    has_more: bool


class ServedTombstone(SignedTombstone, frozen=True, kw_only=True):
    revocation: RevocationRecord | None


class TombstonesServed(Struct, frozen=True, kw_only=True):
    """Oldest change first; `cursor` leads behind the last of them."""

    tombstones: list[ServedTombstone]
    cursor: str | None
    has_more: bool


@describes(
    "remove an entity from every read, and have it erased unless a legal hold keeps it",
    who=ADMIN,
    body=TombstoneRequest,
    answers={201: TombstoneRecord},
    headers=TAKES_KEY,
    refuses=(EntityIsTombstoned, FieldTooLong, IdempotencyKeyReused, InvalidUri, ReservedNamespace),
)
async def create_tombstone(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    raw = await read_json(request, max_bytes=MAX_BYTES)
    body = decode(raw, TombstoneRequest)

    def command(principal: Principal) -> TombstoneEntity:
        return TombstoneEntity(
            principal=principal,
            entity_uri=body.entity_uri,
            scope=body.scope,
            reason=body.reason,
            legal_hold=body.legal_hold,
        )

    response = await carry_out(request, raw, command, _made)
    # The answer says how it began: told again, it is the same.
    await node.erase()
    return response


@describes(
    "tombstones, newest first: this node's, or what peers showed of theirs",
    who=ADMIN,
    query=TombstonesQuery,
    answers={200: (TombstonesPage, PeersTombstonesPage)},
    refuses=(InvalidCursor, UnsupportedParameter),
)
async def list_tombstones(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], _reader_of(request)
    refuse_as_of(request, "tombstones are those of now")
    asked = decode_query(request, TombstonesQuery)
    before = LAST_PLACE if not asked.cursor else opened_cursor(asked.cursor, Place, "tombstones", asked.of)
    if not (0 <= before[0] <= LAST_PLACE[0] and 0 <= before[1] <= LAST_PLACE[1]):
        raise InvalidCursor(FOREIGN)
    unfinished = node.unfinished_erasures()
    return json_response(await node.read(lambda view: _page(asked, before, unfinished, view)))


@describes(
    "one tombstone of this node's",
    who=ADMIN,
    answers={200: TombstoneRecord},
    refuses=(TombstoneNotFound, UnsupportedParameter),
)
async def get_tombstone(request: web.Request) -> web.Response:
    _reader_of(request)
    refuse_as_of(request, "tombstones are those of now")
    return json_response(_now(request))


@describes(
    "lift a legal hold; what was hidden is erased",
    who=ADMIN,
    body=ReasonRequest,
    is_body_optional=True,
    answers={200: TombstoneRecord},
    refuses=(TombstoneNotFound, TombstoneAlreadyRevoked, TombstoneNotHeld, FieldTooLong),
)
async def lift_hold(request: web.Request) -> web.Response:
    return await _changed(request, LiftHold)


@describes(
    "revoke a tombstone; what was not erased is read again",
    who=ADMIN,
    body=ReasonRequest,
    is_body_optional=True,
    answers={200: TombstoneRecord},
    refuses=(TombstoneNotFound, TombstoneAlreadyRevoked, FieldTooLong),
)
async def revoke_tombstone(request: web.Request) -> web.Response:
    return await _changed(request, RevokeTombstone)


@describes(
    "this node's tombstones, for peers and for capability tokens with the verb tombstone:read",
    who=("peer", "token"),
    query=ServedQuery,
    answers={200: TombstonesServed},
    refuses=(InvalidCursor, ScopeNotPermitted, InsufficientCapability),
)
async def serve_tombstones(request: web.Request) -> web.Response:
    node = request.app[NODE]
    bearer = bearer_of(request)
    if bearer is not None and bearer.startswith("{"):
        asked, after = _asked(request, node)
        scopes, prefix = _granted(principal_of(request))
    else:
        claims = await authenticated_peer(request)
        try:
            asked, after = _asked(request, node)
        except Refusal as refusal:
            await refuse_peer(node, claims, refusal)
        scopes, prefix = (await node.execute(ServeTombstones(claims=claims))).reply, None
    return json_response(await node.read(lambda view: served_page(asked, after, scopes, prefix, view)))


def _made(entries: Sequence[Entry], view: View) -> web.Response:
    entry = entries[0]
    # By the entry alone, whatever other tombstones hold: told again, it is the same.
    return json_response(_shown(grave_of(entry, entry.event), frozenset(), set()), 201)


def _now(request: web.Request) -> TombstoneRecord:
    with request.app[NODE].view() as view:
        grave, held = view.tombstones.by_id(request.match_info["tombstone_id"]), view.tombstones.held_entities()
    if grave is None:
        raise TombstoneNotFound("this node has no such tombstone")
    return _shown(grave, request.app[NODE].unfinished_erasures(), held)


def _reader_of(request: web.Request) -> Principal:
    """An admin who reads every scope: a tombstone says that there was something."""
    principal = operator_of(request)
    if not administers_every_scope(principal):
        raise InsufficientPermission("tombstones tell of every scope, and the key does not read all")
    return principal


async def _changed(request: web.Request, change: type[LiftHold] | type[RevokeTombstone]) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    asked = await decode_optional(request, ReasonRequest, max_bytes=MAX_BYTES)
    tombstone_id = request.match_info["tombstone_id"]
    await node.execute(change(principal=principal, tombstone_id=tombstone_id, reason=asked.reason))
    # A hold that ends, be it with its tombstone, may have been all that kept what this or another one has erased.
    await node.erase()
    return json_response(_now(request))


def _page(
    asked: TombstonesQuery, before: Place, unfinished: frozenset[str], view: View
) -> TombstonesPage | PeersTombstonesPage:
    stones = view.tombstones
    found: Iterator[Grave | PeersGrave] = stones.newest_first(before) if asked.of == "node" else stones.of_peers(before)
    graves = list(islice(found, asked.limit + 1))
    page, has_more = graves[: asked.limit], len(graves) > asked.limit
    cursor = cursor_text(page[-1].place, "tombstones", asked.of) if has_more else None
    if asked.of == "node":
        held = stones.held_entities()
        return TombstonesPage(
            tombstones=[_shown(one, unfinished, held) for one in page], cursor=cursor, has_more=has_more
        )
    shown = [_shown_of_peer(one, view) for one in page]
    return PeersTombstonesPage(tombstones=shown, cursor=cursor, has_more=has_more)


def _status_of(grave: Grave, unfinished: frozenset[str], held: set[str]) -> Status:
    if grave.revocation is not None:
        return "revoked"
    if grave.erased_at is not None:
        return "erasing" if grave.tombstone.id in unfinished else "erased"
    is_due = grave.is_to_be_erased and grave.tombstone.entity_uri not in held
    return "erasing" if is_due else "hidden"


def _shown(grave: Grave, unfinished: frozenset[str], held: set[str]) -> TombstoneRecord:
    return TombstoneRecord(
        **structs.asdict(grave.tombstone),
        reason=grave.reason,
        created_by=grave.created_by,
        status=_status_of(grave, unfinished, held),
        held=grave.held,
        hold_lifted_at=grave.hold_lifted_at,
        erased_at=grave.erased_at,
        erased_items=grave.items,
        revoked_at=None if grave.revocation is None else grave.revocation.revoked_at,
        revocation_reason=grave.revocation_reason,
        log_offset=grave.place[0],
    )


def _shown_of_peer(grave: PeersGrave, view: View) -> PeersTombstoneRecord:
    rows = view.facts.about(grave.tombstone.entity_uri)
    theirs = sum(row.fact.origin == grave.node_id and row.hidden for row in rows)
    return PeersTombstoneRecord(
        **structs.asdict(grave.tombstone),
        peer=grave.node_id,
        seen_at=grave.seen_at,
        revoked_at=None if grave.revocation is None else grave.revocation.revoked_at,
        facts_hidden=theirs,
        facts_left=sum(not row.hidden for row in rows),
        log_offset=grave.place[0],
    )


def _asked(request: web.Request, node: Node) -> tuple[ServedQuery, int]:
    """What is asked for, and the offset behind which changes are told."""
    asked = decode_query(request, ServedQuery)
    text = asked.cursor or asked.since
    if not text:
        return asked, -1
    try:
        parse_rfc3339(text)
    except ValueError:
        return asked, opened_kept_cursor(text)
    return asked, node.log.first_at(time_asked("since", text), node.log.announced().size) - 1


def _granted(principal: Principal) -> tuple[tuple[Scope, ...], str | None]:
    """The scopes, and the part of the names, that a capability token reads tombstones of."""
    grant = principal.grant
    if grant is None or grant.verb != "tombstone:read" or is_garden_uri(grant.object):
        raise InsufficientCapability("the token does not grant tombstone:read")
    if grant.object == "*":
        return ALL_SCOPES, None
    scopes = scopes_of(grant.object)
    return (scopes, None) if scopes else (ALL_SCOPES, grant.object)


def served_page(
    asked: ServedQuery, after: int, scopes: tuple[Scope, ...], prefix: str | None, view: View
) -> TombstonesServed:
    """What a reader of these scopes, and of names under the prefix where there is one, is told of behind an offset."""
    changed = sorted(
        (
            grave
            for grave in view.tombstones.newest_first()
            if grave.changed[0] > after and _is_told(grave, scopes, prefix)
        ),
        key=lambda grave: grave.changed,
    )
    page = changed[: asked.limit]
    return TombstonesServed(
        tombstones=[_told(grave.tombstone, grave.revocation) for grave in page],
        cursor=kept_cursor_text(page[-1].changed[0]) if page else asked.cursor,
        has_more=len(changed) > asked.limit,
    )


def _is_told(grave: Grave, scopes: tuple[Scope, ...], prefix: str | None) -> bool:
    is_shared = not set(scopes).isdisjoint(grave.shared_scopes)
    return is_shared and (prefix is None or lies_under(grave.tombstone.entity_uri, prefix))


def _told(tombstone: Tombstone, revocation: Revocation | None) -> ServedTombstone:
    told = None if revocation is None else RevocationRecord(**structs.asdict(revocation))
    return ServedTombstone(**structs.asdict(tombstone), revocation=told)
