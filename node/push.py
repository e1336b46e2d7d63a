"""Pushing this node's own new facts to peers that take pushes (PROTOCOL §5.4).

Always: what is pushed is what the peer could pull, read from the log's views page by page, so nothing waits in memory.
Always: the pull is the net below. What was written while a peer could not be reached, or would not take it, is not pushed
later: the peer finds it with its next pull, and what came both ways is known the second time.
"""

import asyncio

import msgspec
import structlog
from msgspec import Struct

from node.backoff import backoff_s, longest_wait_s, wait_for_any
from node.commands.exchange import exchanged_scopes
from node.commands.peer_tokens import mint_token
from node.commands.served_facts import served_fact
from node.errors import PeerAnswerInvalid, Refusal
from node.events.facts import Fact, Scope
from node.peer_checks import fetch_push_url
from node.peer_client import PeerClient, PeerRefused
from node.projections.base import Place
from node.projections.fact_rows import is_own_word
from node.projections.federation_page import MAX_PAGE_FACTS, News, behind_all, news_for
from node.projections.peers import Peer
from node.projections.view import View
from node.runtime import Node
from node.strict_json import scan_json

# What a peer calls a fact of a scope that it did not grant us: `scope_not_permitted` is the reference node's word.
_SCOPE_CODES = frozenset({"scope_violation", "scope_not_permitted"})

_log = structlog.get_logger("stigmem.push")


class FactError(Struct, frozen=True, kw_only=True):
    fact_id: str | None = None
    error: str = ""


class PushAnswer(Struct, frozen=True, kw_only=True):
    """What a peer says became of a push; the rest of it is ignored."""

    accepted: int
    errors: tuple[FactError, ...] = ()


class _Line:
    """How pushing to one peer goes in this run of the node."""

    def __init__(self) -> None:
        self.url: str | None = None
        self.failures = 0
        self.news = asyncio.Event()
        # What the peer grants us is not told in advance: a scope it refused once is left to its pull while its terms stand.
        self.refused_scopes: set[Scope] = set()
        self.terms_from = -1


class Pusher:
    """One task per peer (`tend`), owned by whoever starts it."""

    def __init__(self, node: Node, client: PeerClient) -> None:
        self._node, self._client = node, client
        self._lines: dict[str, _Line] = {}

    def url_of(self, node_id: str) -> str | None:
        """Where facts are pushed to that peer; None while they are not."""
        return self._line(node_id).url

    def wake(self, node_id: str) -> None:
        """Something about the peer has changed: whoever waits may look again."""
        self._line(node_id).news.set()

    async def tend(self, node_id: str) -> None:
        """Push to a peer, whenever it is active and takes pushes, until cancelled."""
        line = self._line(node_id)
        while True:
            line.news.clear()
            try:
                delay_s = await self._run(node_id, line)
            except (Refusal, PeerRefused) as error:
                line.failures += 1
                delay_s = backoff_s(line.failures, self._node.config.federation_pull_interval_s)
                _log.warning("push_failed", peer=node_id, reason=str(error), failures=line.failures)
            finally:
                line.url = None
            await wait_for_any(line.news, timeout_s=delay_s)

    async def _run(self, node_id: str, line: _Line) -> float:
        """Push until the peer's terms change; the seconds to wait before looking again. Raises where it fails or refuses."""
        peer = self._peer(node_id)
        wait_s = longest_wait_s(self._node.config.federation_pull_interval_s)
        if peer.status != "active":
            return wait_s
        if line.terms_from != peer.terms_from:
            line.refused_scopes, line.terms_from = set(), peer.terms_from
        size = self._node.log.announced().size
        url = await fetch_push_url(self._client, peer)
        if url is None:
            return wait_s
        line.url = url
        place = behind_all(size)
        while _stands(peer, self._peer(node_id)):
            place = await self._push_all(peer, line, url, place)
            size = await self._node.log.grown(size)
        return 0.0

    async def _push_all(self, peer: Peer, line: _Line, url: str, place: Place) -> Place:
        """Push what became servable behind a place, page by page; returns the place behind it."""
        while True:
            news = await self._node.read(lambda view, after=place: self._news(peer, line, after, view))
            # PROTOCOL §5.5: another's word passes by pull alone, whatever pages come to hold.
            facts = [fact for fact in news.facts if is_own_word(fact)]
            if facts:
                await self._push(peer, line, url, facts)
                line.failures = 0
            place = news.place
            if not news.has_more:
                return place

    def _news(self, peer: Peer, line: _Line, after: Place, view: View) -> News:
        scopes = tuple(scope for scope in exchanged_scopes(peer, self._node.config) if scope not in line.refused_scopes)
        news = news_for(view, peer_node_id=peer.node_id, scopes=scopes, after=after, limit=MAX_PAGE_FACTS)
        self._node.vouch_for(news.rows)
        return news

    async def _push(self, peer: Peer, line: _Line, url: str, facts: list[Fact]) -> None:
        node = self._node
        token = mint_token(
            node.signer, node.clock, issuer=node.node_id, audience=peer.node_id, scopes=peer.allowed_scopes
        )
        body = msgspec.json.encode({"facts": [served_fact(fact) for fact in facts], "sender_hlc": facts[-1].hlc})
        try:
            answer = _answer(await self._client.post_json(url, body, peer=peer, token=token))
        except PeerRefused as refusal:
            # Where all are refused, the code is the first fact's.
            if refusal.status != 403 or refusal.code not in _SCOPE_CODES:
                raise
            line.refused_scopes.add(facts[0].scope)
            return
        scopes = {fact.id: fact.scope for fact in facts}
        refused = {scopes[e.fact_id] for e in answer.errors if e.error in _SCOPE_CODES and e.fact_id in scopes}
        line.refused_scopes |= refused
        if not answer.accepted and not refused:
            raise PeerAnswerInvalid(f"it took none of {len(facts)} facts")

    def _line(self, node_id: str) -> _Line:
        return self._lines.setdefault(node_id, _Line())

    def _peer(self, node_id: str) -> Peer:
        with self._node.view() as view:
            return view.peers.of_node(node_id)


def _stands(peer: Peer, now: Peer) -> bool:
    """Whether what the peer is pushed, and where, is still what it was."""
    return (now.status, now.node_url, now.terms_from) == ("active", peer.node_url, peer.terms_from)


def _answer(raw: bytes) -> PushAnswer:
    try:
        scan_json(raw)
        return msgspec.json.decode(raw, type=PushAnswer)
    except (Refusal, msgspec.MsgspecError) as error:
        raise PeerAnswerInvalid(f"its answer to a push cannot be read: {error}") from error
