"""View: all projections over one transaction."""

from typing import TypeVar

import lmdb
from propcache.api import cached_property

from node.errors import NotReady
from node.events.event import Event
from node.projections import PROJECTIONS
from node.projections.api_keys import ApiKeys
from node.projections.audit import Audit
from node.projections.base import Handles, Projection
from node.projections.conflicts import Conflicts
from node.projections.facts import Facts
from node.projections.gardens import Gardens
from node.projections.idempotency import Idempotency
from node.projections.identity import Identity
from node.projections.introductions import Introductions
from node.projections.members import Members
from node.projections.nonces import Nonces
from node.projections.peers import Peers
from node.projections.sources import Sources
from node.projections.tokens import Tokens
from node.projections.tombstones import Tombstones

Opened = TypeVar("Opened", bound=Projection)


class View:
    """What the log folds to, as one transaction sees it. Open it, read it and close it in one `with`, never across an await.

    Projections named in `stale` are being made anew: asking for one raises NotReady.
    """

    def __init__(self, txn: lmdb.Transaction, handles: Handles, stale: frozenset[str] = frozenset()) -> None:
        self._txn, self._handles, self._stale = txn, handles, stale
        self._folding: dict[type[Event], list[Projection]] = {}

    @cached_property
    def facts(self) -> Facts:
        return self._open(Facts)

    @cached_property
    def conflicts(self) -> Conflicts:
        self._require(Conflicts)
        return Conflicts(self._txn, self._handles, self.facts)

    @cached_property
    def gardens(self) -> Gardens:
        return self._open_beside_facts(Gardens)

    @cached_property
    def members(self) -> Members:
        return self._open(Members)

    @cached_property
    def sources(self) -> Sources:
        return self._open_beside_facts(Sources)

    @cached_property
    def tokens(self) -> Tokens:
        return self._open(Tokens)

    @cached_property
    def api_keys(self) -> ApiKeys:
        return self._open(ApiKeys)

    @cached_property
    def peers(self) -> Peers:
        return self._open_beside_facts(Peers)

    @cached_property
    def introductions(self) -> Introductions:
        return self._open(Introductions)

    @cached_property
    def nonces(self) -> Nonces:
        return self._open(Nonces)

    @cached_property
    def identity(self) -> Identity:
        return self._open(Identity)

    @cached_property
    def audit(self) -> Audit:
        return self._open(Audit)

    @cached_property
    def idempotency(self) -> Idempotency:
        return self._open(Idempotency)

    @cached_property
    def tombstones(self) -> Tombstones:
        return self._open(Tombstones)

    @cached_property
    def projections(self) -> list[Projection]:
        """All of them, in the order of PROJECTIONS."""
        return [getattr(self, projection.name) for projection in PROJECTIONS]

    def folding(self, event: type[Event]) -> list[Projection]:
        """The projections that an event of this type changes."""
        found = self._folding.get(event)
        if found is None:
            found = self._folding[event] = [projection for projection in self.projections if event in projection.events]
        return found

    def flush(self) -> None:
        """Hand what was folded to the transaction: it must not commit before."""
        for projection in self.projections:
            projection.flush()

    def close(self) -> None:
        """Let go of the transaction: LMDB keeps a reader's slot for it until nothing names it any more.

        Projections name the view that opened them, and what names each other waits for the collector, which looks seldom.
        """
        self.__dict__.clear()

    def digests(self) -> dict[str, str]:
        """Each projection's digest by name. Reads everything: not for the event loop."""
        return {projection.name: projection.digest() for projection in self.projections}

    def _open(self, projection: type[Opened]) -> Opened:
        self._require(projection)
        return projection(self._txn, self._handles)

    def _open_beside_facts(self, projection: type[Opened]) -> Opened:
        """One that, when it folds an erasure, asks the facts folded before it what was erased."""
        self._require(projection)
        return projection(self._txn, self._handles, lambda: self.facts.erased)

    def _require(self, projection: type[Projection]) -> None:
        if projection.name in self._stale:
            raise NotReady(f"the view of {projection.name} is being made anew from the log")
