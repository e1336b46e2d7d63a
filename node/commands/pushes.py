"""Facts that a peer brings by itself: judged each alone, like those of a page that was pulled (PROTOCOL §5.4).

Always: the event that holds what was taken takes the nonce of the token it came with, whatever became of the facts.
A push never moves the cursor: the next pull finds what it brought known already.
"""

from msgspec import Raw, Struct

from node.clock import parse_hlc
from node.commands.decision import Context, Decision
from node.commands.exchange import Taken, answer_peer, require_terms, take_in
from node.commands.ingest import Examined, check_hlc, examine
from node.commands.peer_tokens import Claims, check_claims, forget_ms
from node.errors import Forbidden, ScopeViolation, SourceNotOwned, UnknownOrInactivePeer
from node.events.peers import BatchRefusal, PushReceived, Receipts
from node.projections.peers import Peer
from node.projections.view import View


class TakePush(Struct, frozen=True, kw_only=True):
    """A peer's facts, each examined under `public_key` and `terms_from`; its token's signature was checked at the door."""

    claims: Claims
    public_key: str | None
    terms_from: int
    sender_hlc: str | None
    outcomes: tuple[Examined | BatchRefusal, ...]


class FactError(Struct, frozen=True, kw_only=True):
    """A fact that was not taken; `fact_id` is empty where it named none."""

    fact_id: str
    error: str


class Pushed(Struct, frozen=True, kw_only=True):
    """What became of a push: `accepted` counts facts taken, held and known."""

    accepted: int
    rejected: int
    errors: tuple[FactError, ...]


def examine_push(facts: list[Raw], sender_hlc: str | None, *, claims: Claims, view: View, context: Context) -> TakePush:
    """Raises what is wrong with the token, before a signature of its facts is looked at: a copied one must not make us work."""
    peer = view.peers.of_node(claims.iss)
    check_claims(claims, view, context)
    if peer is None or peer.status != "active":
        raise UnknownOrInactivePeer()
    return TakePush(
        claims=claims,
        public_key=peer.public_key,
        terms_from=peer.terms_from,
        sender_hlc=sender_hlc,
        outcomes=tuple(examine(bytes(raw), peer, view, context, is_pushed=True) for raw in facts),
    )


def decide_take_push(command: TakePush, view: View, context: Context) -> Decision:
    return answer_peer(command.claims, view, context, lambda peer: _pushed(command, peer, view, context))


def _pushed(command: TakePush, peer: Peer, view: View, context: Context) -> Decision:
    require_terms(peer, public_key=command.public_key, terms_from=command.terms_from)
    check_hlc(command.sender_hlc, context)
    taken = take_in(command.outcomes, peer, view, context)
    event = PushReceived(
        node_id=peer.node_id,
        nonce=str(command.claims.nonce),
        forget_ms=forget_ms(command.claims, context),
        known=taken.known,
        outcome=Receipts(refused=taken.recorded),
        receipts=taken.receipts,
    )
    refusal = _refusal_of_all(taken)
    if refusal is not None:
        return Decision(events=(event,), refusal=refusal)
    observed = [hlc for hlc in (command.sender_hlc, taken.latest_hlc) if hlc is not None]
    return Decision(events=(event,), reply=_reply(taken), observed_hlc=max(observed, default=None, key=parse_hlc))


def _refusal_of_all(taken: Taken) -> Forbidden | None:
    """The answer to a push of nothing but what this peer may not bring: the first fact's code."""
    causes = {ScopeViolation.code: ScopeViolation, SourceNotOwned.code: SourceNotOwned}
    reasons = [refused.reason for refused in taken.refused]
    if taken.receipts or taken.known or not reasons or not causes.keys() >= set(reasons):
        return None
    errors = [{"fact_id": error.fact_id, "error": error.error} for error in _errors(taken)]
    return causes[reasons[0]](
        "no fact of this push may come from this peer", accepted=0, rejected=len(errors), errors=errors
    )


def _reply(taken: Taken) -> Pushed:
    accepted = len(taken.receipts) + taken.known
    return Pushed(accepted=accepted, rejected=len(taken.refused), errors=_errors(taken))


def _errors(taken: Taken) -> tuple[FactError, ...]:
    return tuple(FactError(fact_id=refused.fact_id, error=refused.reason) for refused in taken.refused)
