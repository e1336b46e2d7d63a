"""What peers were given of a fact, as far as it follows from what they asked (PROTOCOL §5.3).

Always: `in_page` is what the page held if the peer's token named those scopes; `given` says that the peer came back with a cursor
from behind the fact. The log has neither a token's scopes nor what was answered.
"""

from collections.abc import Iterator
from itertools import chain, combinations

from node.errors import Refusal
from node.events.facts import Fact, Scope
from node.events.peers import PageServed
from node.projections.base import Place
from node.projections.federation_page import news_for, read_cursor
from node.projections.peers import Peer
from node.projections.view import View
from node.uris import lies_under, normal_uri
from replay.trace_steps import Life, Step

_BEGINNING: Place = (0, 0)


def served_steps(life: Life, event: PageServed, view: View) -> Iterator[Step]:
    peer = view.peers.of_node(event.node_id)
    if peer is None or not _is_news_to(life.fact, peer):
        return
    scopes, after = _asked(event, peer, view)
    if life.fact.scope not in scopes:
        return
    told = {"peer": event.node_id, "nonce": event.nonce, "cursor": event.cursor, "scopes": scopes}
    if after >= life.servable_at:
        if event.node_id not in life.given_to:
            life.given_to.add(event.node_id)
            yield Step(verb="given", **told)
        return
    # The page is read behind the event, so what came in meanwhile may have been in it too: at least this was.
    page = news_for(view, peer_node_id=event.node_id, scopes=scopes, after=after, limit=event.limit)
    if any(life.is_of(fact.origin, fact.id) for fact in page.facts):
        yield Step(verb="in_page", **told)


def _asked(event: PageServed, peer: Peer, view: View) -> tuple[tuple[Scope, ...], Place]:
    """For which scopes a page was asked, and from behind which place: as the cursor says, else by the peer's terms then."""
    allowed = tuple(scope for scope in peer.allowed_scopes if scope != "local")
    if event.scope is not None:
        allowed = tuple(scope for scope in allowed if scope == event.scope)
    subsets = chain.from_iterable(combinations(allowed, count) for count in range(len(allowed), 0, -1))
    for scopes in subsets:
        after = _place(event.cursor, scopes, view)
        if after != _BEGINNING:
            return scopes, after
    return allowed, _BEGINNING


def _place(cursor: str | None, scopes: tuple[Scope, ...], view: View) -> Place:
    try:
        return read_cursor(cursor, scopes, view)
    except Refusal:
        # Whoever logged the page took this cursor for what it is not: serving started over.
        return _BEGINNING


def _is_news_to(fact: Fact, peer: Peer) -> bool:
    return peer.node_id not in (fact.origin, fact.received_from) and not lies_under(
        normal_uri(fact.source), peer.node_id
    )
