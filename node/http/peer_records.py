"""A peer as operators are shown it: what the log says of it, how the exchange goes in this run, and how far either side lags.

Always: counts are capped, so that a listing costs the same however far a peer has fallen behind.
"""

from aiohttp import web
from msgspec import Struct, structs

from node.commands.reading import administers_every_scope
from node.errors import PeerNotFound
from node.events.entry import open_header
from node.events.facts import Scope
from node.events.peers import PeerStatus
from node.http.forms import Count, Time, Uuid
from node.http.keys import NODE, PRINCIPAL, SYNC, ExchangeState
from node.http.moments import Moment
from node.projections.federation_page import backlog_of
from node.projections.peers import PastPeer, Peer
from node.projections.view import View
from node.runtime import Node
from node.times import format_ms, parse_rfc3339

MAX_LAG_FACTS = 1000


class RegisteredPeer(Struct, frozen=True, kw_only=True):
    """What the answer to a registration says of a peer (PROTOCOL §5.1), and what every listing begins with."""

    peer_id: Uuid
    node_id: str
    node_url: str
    status: PeerStatus
    allowed_scopes: tuple[Scope, ...]
    verified_at: Time | None
    reason: str | None
    detail: str | None
    warnings: tuple[str, ...]


class NamedPeer(Struct, frozen=True, kw_only=True):
    """Who a peer is, for those who are no admins."""

    peer_id: Uuid
    node_id: str
    node_url: str
    status: PeerStatus
    allowed_scopes: tuple[Scope, ...]
    established_at: Time | None


class ProposedTerms(Struct, frozen=True, kw_only=True):
    """What a repeated declaration asks for, until an admin approves it."""

    node_url: str
    allowed_scopes: tuple[Scope, ...]


class ForkShown(Struct, frozen=True, kw_only=True):
    """Two signed notes of one log that cannot both be true of it."""

    held: str
    shown: str


class CosignedShown(Struct, frozen=True, kw_only=True):
    """The last checkpoint of this log that the peer cosigned, by its size."""

    size: Count
    at: Time


class LagToPeer(Struct, frozen=True, kw_only=True):
    """What it has not asked for yet, counted up to a thousand, and how old the oldest of it is."""

    facts: Count
    has_more: bool
    seconds: float


class LagFromPeer(Struct, frozen=True, kw_only=True):
    """Whether its last page was the last, and how long ago one was."""

    has_more: bool | None
    seconds: float | None


class Lag(Struct, frozen=True, kw_only=True):
    to_peer: LagToPeer
    from_peer: LagFromPeer


class PeerRecord(RegisteredPeer, frozen=True, kw_only=True):
    """A peer as operators are shown it. All behind `cosigned` moves on with every page, or is of this run: null under `as_of`."""

    established_at: Time | None
    registered_at: Time
    delegated_sources: tuple[str, ...]
    tls_pins: tuple[str, ...]
    proposed: ProposedTerms | None
    checkpoint: str | None
    fork: ForkShown | None
    cosigned: CosignedShown | None
    cursor: str | None = None
    facts_accepted: Count | None = None
    facts_held: Count | None = None
    facts_refused: Count | None = None
    pages_served: Count | None = None
    last_received_at: Time | None = None
    last_served_at: Time | None = None
    last_contact_at: Time | None = None
    last_error: str | None = None
    next_try_at: Time | None = None
    lag: Lag | None = None


async def shown_peers(request: web.Request) -> list[PeerRecord]:
    """Every peer, oldest first."""
    return await request.app[NODE].read(lambda view: [_shown(peer, request, view) for peer in view.peers.all()])


async def past_peers(request: web.Request, moment: Moment) -> list[PeerRecord]:
    """Every peer that was there then. What moves on with every page, and how the exchange goes, is of now alone: null."""
    return await request.app[NODE].read(lambda view: [_content(peer) for peer in view.peers.all_at(moment.at.size)])


async def named_peers(request: web.Request, moment: Moment) -> list[NamedPeer]:
    """Every peer, as whoever is no admin may know of it: what facts it brings, and how, is for admins."""
    size = None if moment.as_of is None else moment.at.size
    return await request.app[NODE].read(
        lambda view: [_named(peer) for peer in (view.peers.all() if size is None else view.peers.all_at(size))]
    )


async def shown_peer(request: web.Request, peer_id: str) -> PeerRecord:
    """Raises PeerNotFound."""

    def read(view: View) -> PeerRecord:
        peer = view.peers.by_id(peer_id)
        if peer is None:
            raise PeerNotFound("there is no such peer")
        return _shown(peer, request, view)

    return await request.app[NODE].read(read)


def registered(peer: Peer | PastPeer) -> RegisteredPeer:
    return RegisteredPeer(
        peer_id=peer.peer_id,
        node_id=peer.node_id,
        node_url=peer.node_url,
        status=peer.status,
        allowed_scopes=peer.allowed_scopes,
        verified_at=peer.verified_at,
        reason=peer.reason or None,
        detail=peer.detail or None,
        warnings=peer.warnings,
    )


def _named(peer: Peer | PastPeer) -> NamedPeer:
    return NamedPeer(
        peer_id=peer.peer_id,
        node_id=peer.node_id,
        node_url=peer.node_url,
        status=peer.status,
        allowed_scopes=peer.allowed_scopes,
        established_at=peer.verified_at,
    )


def _content(peer: Peer | PastPeer) -> PeerRecord:
    """What events that are about a peer made of it."""
    terms, fork, cosigned = peer.proposed, peer.fork, peer.cosigned
    return PeerRecord(
        **structs.asdict(registered(peer)),
        established_at=peer.verified_at,
        registered_at=peer.registered_at,
        delegated_sources=peer.delegated_sources,
        tls_pins=peer.tls_pins,
        proposed=terms and ProposedTerms(node_url=terms.node_url, allowed_scopes=terms.allowed_scopes),
        checkpoint=peer.seen_checkpoint,
        fork=fork and ForkShown(held=fork.held, shown=fork.shown),
        cosigned=cosigned and CosignedShown(size=cosigned.size, at=cosigned.at),
    )


def _shown(peer: Peer, request: web.Request, view: View) -> PeerRecord:
    if not administers_every_scope(request[PRINCIPAL]):
        # How much a peer brought, when, and what waits for it, counts facts of every scope.
        return _content(peer)
    node, state = request.app[NODE], request.app[SYNC].state_of(peer.node_id)
    return structs.replace(
        _content(peer),
        reason=peer.reason or state.reason or None,
        cursor=peer.cursor,
        facts_accepted=peer.accepted,
        facts_held=peer.held,
        facts_refused=peer.refused,
        pages_served=peer.pages_served,
        last_received_at=peer.last_received_at,
        last_served_at=peer.last_served_at,
        last_contact_at=state.last_contact_at,
        last_error=(peer.detail if peer.status != "active" else "") or state.last_error or None,
        next_try_at=None if state.next_try_ms is None else format_ms(state.next_try_ms),
        lag=None if peer.status == "revoked" else _lag(peer, state, view, node),
    )


def _lag(peer: Peer, state: ExchangeState, view: View, node: Node) -> Lag:
    now_ms = node.clock.now_ms()
    waiting = backlog_of(
        view,
        peer_node_id=peer.node_id,
        allowed=tuple(
            scope
            for scope in peer.allowed_scopes
            if (scope != "team" or node.config.federation_allow_team) and peer.asked_scope in (None, scope)
        ),
        cursor=peer.asked_cursor,
        at_most=MAX_LAG_FACTS,
    )
    oldest_ms = now_ms
    if waiting.oldest is not None:
        oldest_ms = parse_rfc3339(open_header(node.log.stored(waiting.oldest[0])).at)
    return Lag(
        to_peer=LagToPeer(facts=waiting.facts, has_more=waiting.has_more, seconds=_seconds(now_ms - oldest_ms)),
        from_peer=LagFromPeer(
            has_more=state.has_more,
            seconds=None if state.caught_up_ms is None else _seconds(now_ms - state.caught_up_ms),
        ),
    )


def _seconds(ms: int) -> float:
    return max(0, ms) / 1000
