"""View: all projections over one transaction."""

from functools import cached_property

import lmdb

from node.events.event import Event
from node.projections import PROJECTIONS
from node.projections.audit import Audit
from node.projections.base import Projection
from node.projections.conflicts import Conflicts
from node.projections.facts import Facts
from node.projections.gardens import Gardens
from node.projections.identity import Identity
from node.projections.introductions import Introductions
from node.projections.nonces import Nonces
from node.projections.peers import Peers
from node.projections.sources import Sources
from node.projections.tokens import Tokens


class View:
    """What the log folds to, as one transaction sees it. Open it, read it and close it in one `with`, never across an await."""

    def __init__(self, txn: lmdb.Transaction, handles: dict[str, object]) -> None:
        self._txn, self._handles = txn, handles
        self._folding: dict[type[Event], list[Projection]] = {}

    @cached_property
    def facts(self) -> Facts:
        return Facts(self._txn, self._handles)

    @cached_property
    def conflicts(self) -> Conflicts:
        return Conflicts(self._txn, self._handles, self.facts)

    @cached_property
    def gardens(self) -> Gardens:
        return Gardens(self._txn, self._handles)

    @cached_property
    def sources(self) -> Sources:
        return Sources(self._txn, self._handles)

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self._txn, self._handles)

    @cached_property
    def peers(self) -> Peers:
        return Peers(self._txn, self._handles)

    @cached_property
    def introductions(self) -> Introductions:
        return Introductions(self._txn, self._handles)

    @cached_property
    def nonces(self) -> Nonces:
        return Nonces(self._txn, self._handles)

    @cached_property
    def identity(self) -> Identity:
        return Identity(self._txn, self._handles)

    @cached_property
    def audit(self) -> Audit:
        return Audit(self._txn, self._handles)

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

    def digests(self) -> dict[str, str]:
        """Each projection's digest by name. Reads everything: not for the event loop."""
        return {projection.name: projection.digest() for projection in self.projections}
