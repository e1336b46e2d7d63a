"""/v1/federation/peers: register, list, change, approve, check, remove, pull by hand; our declaration (PROTOCOL §5.1, §5.3)."""

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct, structs

from node.commands.approvals import ApprovePeer
from node.commands.decision import Principal
from node.commands.declarations import SignedDeclaration, own_declaration
from node.commands.drafts import NAME_BYTES
from node.commands.idempotency import Claim, Once, RecordAnswer
from node.commands.peers import (
    MAX_TLS_PINS,
    ChangePeer,
    Finding,
    RegisterPeer,
    RemovePeer,
    declaration_of,
    find_peer,
    require_registrar,
)
from node.errors import (
    DeclarationInvalid,
    FederationDisabled,
    FieldTooLong,
    IdempotencyKeyReused,
    InsufficientPermission,
    InvalidUri,
    LogForked,
    LogUnproven,
    NotAwaitingApproval,
    PeerAnswerInvalid,
    PeerBehind,
    PeerIdTaken,
    PeerNotActive,
    PeerNotFound,
    PeerTlsRefused,
    PeerUnreachable,
    PeerUrlForbidden,
    QuarantineGardenRequired,
    ScopeNotPermitted,
    TermsChanged,
    UnsupportedParameter,
)
from node.events.facts import Scope
from node.http.auth import operator_of, principal_of
from node.http.body import NoMembers, decode_optional, json_response, read_json, require_no_members
from node.http.describe import ADMIN, KEYS, describes
from node.http.forms import Count, Time, Uuid
from node.http.idempotency import TAKES_KEY, claim_of, recorded_answer, turn_of
from node.http.keys import NODE, PEERS, PRINCIPAL, SYNC
from node.http.moments import AsOfQuery, asked_moment, refuse_as_of
from node.http.peer_records import (
    NamedPeer,
    PeerRecord,
    RegisteredPeer,
    named_peers,
    past_peers,
    registered,
    shown_peer,
    shown_peers,
)
from node.peer_checks import check_peer
from node.peer_witness import shown_checkpoint
from node.projections.idempotency import Taken
from node.strict_json import decode, scan_json

MAX_BYTES = 1 << 16
# What is signed is canonical JSON, which has no whole numbers beyond this (RFC 8785 §3.1).
MAX_SIGNED_INTEGER = (1 << 53) - 1
NO_RATE_LIMIT = (
    "rate_limit: signed and taken, but nothing here goes by it: it has no unit that two nodes could agree on"
)
Pins = Annotated[tuple[str, ...], Meta(max_length=MAX_TLS_PINS)]
Url = Annotated[str, Meta(max_length=NAME_BYTES, extra_json_schema={"pattern": "^https?://[!-~]+$"})]


class TutorialForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator names a peer. `tls_pins` are SHA-256 fingerprints of the certificates that alone are to count for it."""

    peer_url: Url
    peer_entity_uri: str
    allowed_scopes: tuple[Scope, ...] = ("public",)
    tls_pins: Pins | None = None


class DeclarationForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A peer's own signed declaration, brought by an operator, or with a key that may federate: then it waits for one.

    `rate_limit` is named by PROTOCOL §5.1 and defined nowhere: signed like the rest, and said to change nothing here.
    """

    node_url: Url
    node_id: str
    federation_pubkey: str
    allowed_scopes: tuple[Scope, ...]
    signed_at: Time
    declaration_sig: str
    rate_limit: Annotated[int, Meta(ge=1, le=MAX_SIGNED_INTEGER)] | None = None


class DeclareRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this node is to declare itself willing to exchange."""

    allowed_scopes: Annotated[tuple[Scope, ...], Meta(extra_json_schema={"minItems": 1, "uniqueItems": True})] = (
        "public",
    )


class ChangeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    allowed_scopes: tuple[Scope, ...] | None = None
    delegated_sources: tuple[str, ...] | None = None
    tls_pins: Pins | None = None


class ApproveRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`accept_checkpoint` takes the line that a forked log went on with (PROTOCOL §10.3)."""

    accept_checkpoint: bool = False


class PullRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"start": "from"}):
    """`{"from": "start"}` reads the peer's log from the beginning again."""

    start: Literal["start"] | None = None


class CheckedPeer(PeerRecord, frozen=True, kw_only=True):
    """A peer as listed, with what was found; null where it was removed meanwhile."""

    found: Finding | None


class Peers(Struct, frozen=True, kw_only=True):
    peers: list[PeerRecord]


class NamedPeers(Struct, frozen=True, kw_only=True):
    peers: list[NamedPeer]


class PeerCapabilities(Struct, frozen=True, kw_only=True):
    """What is exchanged with a peer. `push` says whether its pushes are taken, `push_url` where ours go, null while they do not."""

    peer_id: Uuid
    node_id: str
    allowed_scopes: tuple[Scope, ...]
    delegated_sources: tuple[str, ...]
    pull: bool
    push: bool
    push_url: str | None


class Pulled(Struct, frozen=True, kw_only=True):
    """What one pull cycle brought, over all its pages."""

    ingested: Count
    known: Count
    refused: Count
    cursor: str | None


@describes(
    "register a peer, by its URL or by its signed declaration",
    who=KEYS,
    body=(TutorialForm, DeclarationForm),
    answers={201: RegisteredPeer},
    headers=TAKES_KEY,
    refuses=(
        IdempotencyKeyReused,
        DeclarationInvalid,
        FederationDisabled,
        InvalidUri,
        LogForked,
        PeerIdTaken,
        PeerUrlForbidden,
        ScopeNotPermitted,
    ),
)
async def register_peer(request: web.Request) -> web.Response:
    """Under an idempotency key the answer is recorded: it says what the peer's documents came to, which no entry of ours does."""
    require_registrar(principal_of(request))
    raw = await read_json(request, max_bytes=MAX_BYTES)
    command, unheeded = _registration(raw, request)
    claim = claim_of(request, raw)
    if claim is None:
        peer_id = (await request.app[NODE].execute(command)).reply
        return json_response(await _checked(peer_id, unheeded, request), 201)
    async with turn_of(request, claim) as taken:
        if taken is not None and taken.answer is not None:
            return recorded_answer(taken)
        answer = await _checked(await _registered_once(command, claim, taken, request), unheeded, request)
        text = msgspec.json.encode(answer).decode()
        await request.app[NODE].execute(RecordAnswer(claim=claim, answer=text))
        return json_response(answer, 201)


async def _registered_once(command: RegisterPeer, claim: Claim, taken: Taken | None, request: web.Request) -> str:
    """The peer_id; of a request that was interrupted after it had registered, that of then."""
    node = request.app[NODE]
    if taken is not None:
        return node.vouched_entries(taken.first, taken.end)[0].event.peer_id
    outcome = await node.execute(Once(claim=claim, command=structs.replace(command, principal=claim.principal)))
    return outcome.entries[0].event.peer_id


def _registration(raw: bytes, request: web.Request) -> tuple[RegisterPeer, tuple[str, ...]]:
    """The command, and what of the body nothing goes by."""
    client, members = request.app[PEERS], scan_json(raw)
    if isinstance(members, dict) and "declaration_sig" in members:
        form = decode(raw, DeclarationForm)
        unheeded = (NO_RATE_LIMIT,) if form.rate_limit is not None else ()
        node_id, url, declaration, pins = form.node_id, form.node_url, declaration_of(members), None
    else:
        form = decode(raw, TutorialForm)
        node_id, url, declaration, unheeded = form.peer_entity_uri, form.peer_url, None, ()
        pins = form.tls_pins
    command = RegisterPeer(
        principal=request[PRINCIPAL],
        node_id=node_id,
        node_url=client.check_url(url),
        allowed_scopes=form.allowed_scopes,
        declaration=declaration,
        tls_pins=pins,
    )
    return command, unheeded


async def _checked(peer_id: str, unheeded: tuple[str, ...], request: web.Request) -> RegisteredPeer:
    """The peer as its registration is answered, after its documents were fetched."""
    node = request.app[NODE]
    with node.view() as view:
        peer = find_peer(peer_id, view)
    if peer.reason != "awaiting_approval":
        await check_peer(node, request.app[PEERS], peer)
    with node.view() as view:
        peer = find_peer(peer_id, view)
    return structs.replace(registered(peer), warnings=(*peer.warnings, *unheeded))


@describes(
    "this node's own signed declaration, for a peer's registration route",
    who=ADMIN,
    body=DeclareRequest,
    answers={200: SignedDeclaration},
    refuses=(FederationDisabled, ScopeNotPermitted),
)
async def declare(request: web.Request) -> web.Response:
    """Our own signed declaration, to be brought to a peer's registration route as it stands."""
    node, principal = request.app[NODE], operator_of(request)
    body = decode(await read_json(request, max_bytes=MAX_BYTES), DeclareRequest)
    return json_response(own_declaration(principal, body.allowed_scopes, node.context()))


@describes(
    "approve a peer's terms, or the new line of a log",
    who=ADMIN,
    body=ApproveRequest,
    is_body_optional=True,
    answers={200: PeerRecord},
    refuses=(
        LogForked,
        NotAwaitingApproval,
        PeerNotFound,
        PeerAnswerInvalid,
        PeerTlsRefused,
        PeerUnreachable,
        ScopeNotPermitted,
    ),
)
async def approve_peer(request: web.Request) -> web.Response:
    """Take the terms that wait, or with `accept_checkpoint` the new line of a forked or restored log; then check the peer."""
    node, client, principal = request.app[NODE], request.app[PEERS], operator_of(request)
    body = await decode_optional(request, ApproveRequest, max_bytes=MAX_BYTES)
    peer_id = request.match_info["peer_id"]
    with node.view() as view:
        peer = find_peer(peer_id, view)
    may_be_restored = body.accept_checkpoint and peer.status == "active" and peer.seen_checkpoint is not None
    shown = await shown_checkpoint(client, peer) if may_be_restored else None
    await node.execute(
        ApprovePeer(principal=principal, peer_id=peer_id, accept_checkpoint=body.accept_checkpoint, shown=shown)
    )
    with node.view() as view:
        peer = find_peer(peer_id, view)
    await check_peer(node, client, peer)
    return json_response(await shown_peer(request, peer_id))


@describes(
    "fetch a peer's documents and judge them now",
    who=ADMIN,
    body=NoMembers,
    is_body_optional=True,
    answers={200: CheckedPeer},
    refuses=(PeerNotActive, PeerNotFound),
)
async def check_now(request: web.Request) -> web.Response:
    """Fetch a peer's documents and judge them now: the peer as it stands then, with what was found."""
    node, client = request.app[NODE], request.app[PEERS]
    operator_of(request)
    await require_no_members(request)
    with node.view() as view:
        peer = find_peer(request.match_info["peer_id"], view)
    if peer.status == "revoked" or peer.reason == "awaiting_approval":
        raise PeerNotActive("nothing is fetched from a peer that is revoked, or waits for an admin")
    found = await check_peer(node, client, peer)
    return json_response(CheckedPeer(**structs.asdict(await shown_peer(request, peer.peer_id)), found=found))


@describes("peers, oldest first", who=KEYS, query=AsOfQuery, answers={200: (Peers, NamedPeers)})
async def list_peers(request: web.Request) -> web.Response:
    """All there is to say for an admin; for a key, who the peers are, as today's clients ask."""
    principal = principal_of(request)
    if not principal.is_operator:
        _require_member(principal)
    moment = asked_moment(request)
    if not principal.is_operator:
        return json_response(NamedPeers(peers=await named_peers(request, moment)))
    shown = await (shown_peers(request) if moment.as_of is None else past_peers(request, moment))
    return json_response(Peers(peers=shown))


@describes(
    "what is exchanged with a peer",
    who=ADMIN,
    answers={200: PeerCapabilities},
    refuses=(PeerNotFound, UnsupportedParameter),
)
async def get_capabilities(request: web.Request) -> web.Response:
    node = request.app[NODE]
    operator_of(request)
    refuse_as_of(request, "what is exchanged follows from today's settings; the list of peers has a past")
    with node.view() as view:
        peer = find_peer(request.match_info["peer_id"], view)
    is_exchanging = node.config.federation_enabled and peer.status == "active"
    return json_response(
        PeerCapabilities(
            peer_id=peer.peer_id,
            node_id=peer.node_id,
            allowed_scopes=peer.allowed_scopes,
            delegated_sources=peer.delegated_sources,
            pull=is_exchanging,
            push=is_exchanging and node.config.federation_push_enabled,
            push_url=request.app[SYNC].push_url_of(peer.node_id),
        )
    )


@describes(
    "change what is exchanged with a peer",
    who=ADMIN,
    body=ChangeRequest,
    answers={200: PeerRecord},
    refuses=(InvalidUri, FieldTooLong, PeerNotActive, PeerNotFound, ScopeNotPermitted),
)
async def change_peer(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    body = decode(await read_json(request, max_bytes=MAX_BYTES), ChangeRequest)
    peer_id = request.match_info["peer_id"]
    await node.execute(
        ChangePeer(
            principal=principal,
            peer_id=peer_id,
            allowed_scopes=body.allowed_scopes,
            delegated_sources=body.delegated_sources,
            tls_pins=body.tls_pins,
        )
    )
    return json_response(await shown_peer(request, peer_id))


@describes("stop all exchange with a peer", who=ADMIN, answers={204: None}, refuses=(PeerNotFound,))
async def remove_peer(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    await node.execute(RemovePeer(principal=principal, peer_id=request.match_info["peer_id"]))
    return web.Response(status=204, headers={"X-Content-Type-Options": "nosniff"})


@describes(
    "pull from a peer now",
    who=ADMIN,
    body=PullRequest,
    is_body_optional=True,
    answers={200: Pulled},
    refuses=(
        FederationDisabled,
        LogForked,
        LogUnproven,
        PeerAnswerInvalid,
        PeerBehind,
        PeerNotActive,
        PeerNotFound,
        PeerTlsRefused,
        PeerUnreachable,
        QuarantineGardenRequired,
        TermsChanged,
    ),
)
async def pull_now(request: web.Request) -> web.Response:
    """Run a whole pull cycle now, page after page."""
    node, sync = request.app[NODE], request.app[SYNC]
    operator_of(request)
    body = await decode_optional(request, PullRequest, max_bytes=MAX_BYTES)
    with node.view() as view:
        peer = find_peer(request.match_info["peer_id"], view)
    cycle = await sync.pull_now(peer.node_id, from_start=body.start is not None)
    return json_response(Pulled(**structs.asdict(cycle)))


def _require_member(principal: Principal) -> None:
    """Raises InsufficientPermission for who has nothing to do with facts or peers; a token is about some facts, and no more."""
    if principal.key is None or not {"read", "federate"} & set(principal.key.permissions):
        raise InsufficientPermission("an admin may do this, or an API key that reads or federates")
