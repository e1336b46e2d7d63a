"""Projections: tables folded from the log, and the read-only View over all of them.

`PROJECTIONS` is the one list of all projections; a new one joins here.
"""

from node.projections.api_keys import ApiKeys
from node.projections.audit import Audit
from node.projections.base import Projection
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

PROJECTIONS: tuple[type[Projection], ...] = (
    Facts,
    Conflicts,
    Gardens,
    Members,
    Sources,
    Tokens,
    ApiKeys,
    Peers,
    Introductions,
    Nonces,
    Identity,
    Audit,
    Idempotency,
    Tombstones,
)
