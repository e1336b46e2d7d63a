"""What must hold of a node's log and views, checked entry by entry as the log grows.

Always: the log is read back from disk, and nothing is asked of the node that was told to it.
"""

from node.clock import parse_hlc
from node.events.conflicts import ConflictResolved
from node.events.entry import FIRST_PREV, Entry, is_signed_by, open_header
from node.events.facts import Fact, FactAsserted
from node.events.gardens import FactPromoted
from node.events.peers import BatchReceived, PeerChanged, PeerRegistered, PushReceived
from tests.independent.merkle import root_of
from tests.simulation.nodes import SimulatedNode

Identity = tuple[str, str]


class Ledger:
    """`own` are the facts that were written at this node, `received` those that peers brought, by (origin, id).

    `held` are those of them that wait in quarantine.
    `allowed` are the scopes exchanged with a peer now, `ever_allowed` those that once were, `cursors` the places in peers' logs.
    """

    def __init__(self, of: SimulatedNode) -> None:
        self._of = of
        self._leaves: list[bytes] = []
        self._last_hlc, self._last_at_ms = (0, 0), 0
        self._nonces: set[str] = set()
        self._shadow = of.new_views("shadow")
        self.own: dict[Identity, Fact] = {}
        self.received: dict[Identity, Fact] = {}
        self.held: set[Identity] = set()
        self.cursors: dict[str, str | None] = {}
        self.allowed: dict[str, tuple[str, ...]] = {}
        self.ever_allowed: dict[str, set[str]] = {}

    def shown(self) -> list[Fact]:
        """The facts that stand for all to read, oldest here first within either kind."""
        received = [fact for identity, fact in self.received.items() if identity not in self.held]
        return [*self.own.values(), *received]

    @property
    def size(self) -> int:
        return len(self._leaves)

    def check_growth(self) -> None:
        """Whatever the log has gained: chain, nonces, facts and scopes; then the views against a fold of their own."""
        log = self._of.node.log
        for entry in log.read(self.size, 10_000):
            self._check_chain(entry)
            self._check_nonce(entry)
            self._check_facts(entry)
            self._follow_terms(entry)
            self._leaves.append(entry.leaf)
        self._shadow.fold_forward(log, self.size)
        assert log.announced() == log.head(), "views: they stand behind the log"
        assert self._of.digests() == self._shadow.digests(), "views: not the fold of the log"
        for node_id, cursor in self.cursors.items():
            assert self._of.peer(node_id).cursor == cursor, "cursor: the one stored is not that of the last page taken"

    def check_stored(self) -> None:
        """The whole log read again from disk: every entry as it was seen first, and the root over them."""
        log = self._of.node.log
        assert [entry.leaf for entry in log.read(0, 10_000)] == self._leaves, "chain: what was in the log has changed"
        assert log.head().root == root_of(self._leaves), "chain: the root is not that of the leaves"

    def check_fold(self) -> None:
        """The views against a fold of the log from its first entry on."""
        fresh = self._of.new_views("fresh")
        fresh.fold_forward(self._of.node.log, self.size)
        digests = fresh.digests()
        fresh.close()
        assert self._of.digests() == digests, "views: not the fold of the log"

    def close(self) -> None:
        self._shadow.close()

    def _check_chain(self, entry: Entry) -> None:
        header = open_header(entry.stored)
        assert entry.offset == self.size, "chain: an offset is missing"
        assert header.prev == (self._leaves[-1] if self._leaves else FIRST_PREV).hex(), "chain: another entry before it"
        assert is_signed_by(entry.stored, self._of.signer.public_key), "chain: the signature does not hold"
        assert parse_hlc(entry.hlc) > self._last_hlc, "chain: the clock went back"
        assert entry.at_ms >= self._last_at_ms, "chain: the time went back"
        self._last_hlc, self._last_at_ms = parse_hlc(entry.hlc), entry.at_ms

    def _check_nonce(self, entry: Entry) -> None:
        # No schedule's token outlives the memory of its nonce, so within one none ever counts again.
        nonce = getattr(entry.event, "nonce", None)
        if nonce is not None:
            assert nonce not in self._nonces, f"nonce: {nonce} was taken twice"
            self._nonces.add(nonce)

    def _check_facts(self, entry: Entry) -> None:
        match entry.event:
            case FactAsserted(fact=fact) | ConflictResolved(fact=fact):
                self._keep(self.own, fact)
            case BatchReceived(node_id=node_id, receipts=receipts) | PushReceived(node_id=node_id, receipts=receipts):
                for receipt in receipts:
                    self._check_scope(receipt.fact, node_id)
                    self._check_hops(receipt.fact, node_id)
                    self._keep(self.received, receipt.fact)
                    if receipt.quarantine_garden_id is not None:
                        self.held.add((receipt.fact.origin, receipt.fact.id))
                if isinstance(entry.event, BatchReceived):
                    self.cursors[node_id] = entry.event.cursor
            case FactPromoted(origin=origin, fact_id=fact_id):
                assert (origin, fact_id) in self.held, "quarantine: a fact was promoted that does not wait there"
                self.held.remove((origin, fact_id))

    def _follow_terms(self, entry: Entry) -> None:
        match entry.event:
            case (
                PeerRegistered(node_id=node_id, allowed_scopes=scopes)
                | PeerChanged(node_id=node_id, allowed_scopes=scopes)
            ):
                self.allowed[node_id], self.cursors[node_id] = scopes, None
                self.ever_allowed.setdefault(node_id, set()).update(scopes)

    def _keep(self, facts: dict[Identity, Fact], fact: Fact) -> None:
        identity = (fact.origin, fact.id)
        assert identity not in self.own and identity not in self.received, f"fact: {identity} was stored twice"
        facts[identity] = fact

    def _check_scope(self, fact: Fact, node_id: str) -> None:
        allowed = self.allowed.get(node_id, ())
        assert fact.scope in allowed and fact.scope != "local", f"scope: a {fact.scope} fact was taken from {node_id}"

    @staticmethod
    def _check_hops(fact: Fact, node_id: str) -> None:
        assert fact.scope == "public" or fact.origin == node_id, f"scope: a {fact.scope} fact went more than one hop"
