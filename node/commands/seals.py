"""Seals: this node's signature on its own fact records, which lets them travel (PROTOCOL §2.4).

Always: a node with federation on seals at write what may travel; what was written before is sealed when it is switched on.
"""

from itertools import islice

from msgspec import Struct, structs

from node.canonical import b64url_decode, b64url_encode
from node.clock import parse_hlc
from node.commands.decision import Context, Decision
from node.events.event import NODE_ITSELF
from node.events.facts import Fact, FactsSealed, Seal, sealed_bytes
from node.events.rotations import KeyChain, keys_for
from node.keys import Signer, verify
from node.projections.view import View
from node.times import parse_rfc3339

MAX_SEALS = 500


class SealFacts(Struct, frozen=True, kw_only=True):
    """Seal a batch of what may travel and carries no seal; the reply is how many were."""


def decide_seal_facts(command: SealFacts, view: View, context: Context) -> Decision:
    rows = list(islice(view.facts.unsealed(), MAX_SEALS))
    if not rows:
        return Decision(reply=0)
    seals = tuple(Seal(fact_id=row.fact.id, seal=seal_of(row.fact, context.signer)) for row in rows)
    event = FactsSealed(origin=context.node_id, seals=seals)
    return Decision(events=(event,), actor=NODE_ITSELF, reply=len(rows))


def sealed_ms(hlc: str | None, timestamp: str) -> int:
    """The date (epoch ms) that a seal gives a record: the later of the two that its origin says. ValueError for no time."""
    try:
        wall_ms = parse_hlc(hlc or "")[0]
    except ValueError:
        # None, or one that is refused for its form: then that is what is said of the record.
        wall_ms = 0
    return max(wall_ms, parse_rfc3339(timestamp))


def seal_holds(fact: Fact, chain: KeyChain) -> bool:
    """Whether a fact's seal is by a key of that chain which proves something of its date (PROTOCOL §11).

    A peer's record without a clock was given one here, which its seal does not cover.
    """
    clocks = [fact.hlc] if fact.received_from is None else [fact.hlc, ""]
    try:
        seal = b64url_decode(fact.seal or "")
        return any(
            verify(key, sealed_bytes(structs.replace(fact, hlc=hlc)), seal)
            for hlc in clocks
            for key in keys_for(chain, sealed_ms(hlc, fact.timestamp))
        )
    except ValueError:
        return False


def seal_of(fact: Fact, signer: Signer) -> str:
    """The seal of a fact of this node's own, base64url."""
    return b64url_encode(signer.sign(sealed_bytes(fact)))
