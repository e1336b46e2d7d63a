"""The page of facts a peer is given, and the cursor that marks a place in this log (PROTOCOL §5.3).

Always: the same cursor gives the same facts, and nothing is served twice or passed over while writes go on.
A cursor holds a place, the first 8 bytes of that entry's leaf hash, and a digest of what the peer is granted.
"""

import heapq
import struct
from collections.abc import Container
from hashlib import sha256
from itertools import chain, combinations

from msgspec import Struct

from node.canonical import b64url_decode, b64url_encode
from node.errors import CursorForeign, InvalidCursor
from node.events.facts import Fact, Scope
from node.projections.base import LAST_PLACE, Place
from node.projections.fact_indexes import Servable
from node.projections.fact_rows import FactRow
from node.projections.view import View
from node.uris import lies_under, normal_uri

MAX_PAGE_FACTS = 500
MAX_PAGE_BYTES = 4 << 20
# What one page passes over at most: a peer's own facts, which relays brought here too, are none of its business.
MAX_LOOKED_AT = 5000
_CURSOR = struct.Struct(">BQI8s8s")
_VERSION = 1
_BEGINNING: Place = (0, 0)


class ServedPage(Struct, frozen=True, kw_only=True):
    """Facts in the order they became servable, the place to go on from, and whether more are there.

    `is_held_back` says that facts of a lagging upstream wait behind the cursor.
    """

    rows: list[FactRow]
    cursor: str
    has_more: bool
    is_held_back: bool

    @property
    def facts(self) -> list[Fact]:
        return [row.fact for row in self.rows]


class News(Struct, frozen=True, kw_only=True):
    """A page without a cursor: facts, the place to go on from, whether more are there, whether some are held back."""

    rows: list[FactRow]
    place: Place
    has_more: bool
    is_held_back: bool

    @property
    def facts(self) -> list[Fact]:
        return [row.fact for row in self.rows]


class Backlog(Struct, frozen=True, kw_only=True):
    """Facts a peer has yet to ask for, whether there may be more than were counted, and where the first became servable."""

    facts: int
    has_more: bool
    oldest: Place | None


def read_cursor(cursor: str | None, scopes: tuple[Scope, ...], view: View) -> Place:
    """The place to go on from. Raises InvalidCursor for what is none, CursorForeign for a place in another log."""
    if cursor is None or cursor == "":
        return _BEGINNING
    try:
        version, offset, index, leaf_start, grant = _CURSOR.unpack(b64url_decode(cursor))
    except (ValueError, struct.error) as error:
        raise InvalidCursor("cursor: not one of this node's") from error
    if version != _VERSION:
        raise InvalidCursor("cursor: not one of this node's")
    if leaf_start != _leaf_start(view, (offset, index)):
        raise CursorForeign("cursor: a place in another log")
    return (offset, index) if grant == _grant(scopes) else _BEGINNING


def behind_all(size: int) -> Place:
    """The place behind everything that a log of `size` entries brought."""
    return (size - 1, LAST_PLACE[1])


def page_for(
    view: View,
    *,
    peer_node_id: str,
    scopes: tuple[Scope, ...],
    cursor: str | None,
    limit: int,
    lagging: Container[str] = (),
) -> ServedPage:
    """Up to `limit` facts of these scopes behind the cursor, at most 4 MiB of them.

    What came from a `lagging` node is held back, and the cursor stays before it; what else there is goes on being served.
    """
    place = read_cursor(cursor, scopes, view)
    news = news_for(view, peer_node_id=peer_node_id, scopes=scopes, after=place, limit=limit, lagging=lagging)
    return ServedPage(
        rows=news.rows,
        cursor=_write_cursor(view, news.place, scopes),
        has_more=news.has_more,
        is_held_back=news.is_held_back,
    )


def news_for(
    view: View,
    *,
    peer_node_id: str,
    scopes: tuple[Scope, ...],
    after: Place,
    limit: int,
    lagging: Container[str] = (),
) -> News:
    """The same behind a place that need not be an event's."""
    place = after
    rows: list[FactRow] = []
    size, has_more, is_held_back = 0, False, False
    streams = [view.facts.servable(scope, place) for scope in scopes]
    for looked_at, (shown_at, servable) in enumerate(heapq.merge(*streams, key=_place)):
        row = view.facts.at(servable.place)
        fact = row.fact
        if looked_at == MAX_LOOKED_AT:
            has_more = True
            break
        if row.hidden:
            pass  # a tombstone reaches it: nobody is given it
        elif fact.received_from in lagging and _is_news_to(fact, peer_node_id):
            is_held_back = True
        elif _is_news_to(fact, peer_node_id):
            size += _wire_size(fact)
            if len(rows) == limit or (rows and size > MAX_PAGE_BYTES):
                has_more = True
                break
            rows.append(row)
        if not is_held_back:
            place = shown_at
    # From a cursor that stays, the same page would come again and again.
    return News(rows=rows, place=place, has_more=has_more and not is_held_back, is_held_back=is_held_back)


def backlog_of(
    view: View, *, peer_node_id: str, allowed: tuple[Scope, ...], cursor: str | None, at_most: int
) -> Backlog:
    """What a peer that asked with this cursor had not been given before; at most so many places are looked at."""
    scopes = _scopes_granted(cursor, allowed)
    place = read_cursor(cursor, scopes, view)
    facts, oldest = 0, None
    streams = [view.facts.servable(scope, place) for scope in scopes]
    for looked_at, (shown_at, servable) in enumerate(heapq.merge(*streams, key=_place)):
        if looked_at == at_most:
            return Backlog(facts=facts, has_more=True, oldest=oldest)
        row = view.facts.at(servable.place)
        if not row.hidden and _is_news_to(row.fact, peer_node_id):
            facts, oldest = facts + 1, oldest or shown_at
    return Backlog(facts=facts, has_more=False, oldest=oldest)


def _scopes_granted(cursor: str | None, allowed: tuple[Scope, ...]) -> tuple[Scope, ...]:
    """The scopes that a cursor was given out for, where those are still allowed: a peer's token may have asked for fewer."""
    if not cursor:
        return allowed
    grant = _CURSOR.unpack(b64url_decode(cursor))[-1]
    subsets = chain.from_iterable(combinations(allowed, count) for count in range(1, len(allowed) + 1))
    return next((scopes for scopes in subsets if _grant(scopes) == grant), allowed)


def _write_cursor(view: View, place: Place, scopes: tuple[Scope, ...]) -> str:
    return b64url_encode(_CURSOR.pack(_VERSION, *place, _leaf_start(view, place), _grant(scopes)))


def _leaf_start(view: View, place: Place) -> bytes:
    if place == _BEGINNING:
        birth = view.identity.birth()
        return birth.leaf_start if birth is not None else bytes(8)
    return view.facts.leaf_start_at(place)


def _grant(scopes: tuple[Scope, ...]) -> bytes:
    return sha256("\x00".join(sorted(scopes)).encode()).digest()[:8]


def _is_news_to(fact: Fact, peer_node_id: str) -> bool:
    # Nothing is served back to whose word it is, or to whom we have it from.
    return peer_node_id not in (fact.origin, fact.received_from) and not lies_under(
        normal_uri(fact.source), peer_node_id
    )


def _place(item: tuple[Place, Servable]) -> Place:
    return item[0]


def _wire_size(fact: Fact) -> int:
    # Text dominates a record; the rest of one stays below a kilobyte, but for its chains.
    v = fact.value.v
    chains = 100 * (len(fact.attestation_chain) + len(fact.derived_from) + len(fact.supersedes))
    return 1024 + chains + len(fact.entity) + len(fact.source) + (len(v.encode()) if isinstance(v, str) else 0)
